//! One port for gRPC, gRPC-Web, health and reflection.

use std::sync::Arc;
use std::time::Duration;

use gofer_proto::FILE_DESCRIPTOR_SET;
use http::{HeaderName, HeaderValue, Method};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::auth::{AuthLayer, Gate};
use crate::config::ServerConfig;
use crate::context::Context;
use crate::server::ServerError;
use crate::services;

/// Time between two pings of an idle connection, and the longest wait for an answer: a black-holed one is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// All headers of a request; metadata is for a token and little else.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Headers of answers that a web page may read.
const EXPOSED_HEADERS: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
/// How long a browser may remember what it may ask.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// Serves until the context says stop and every call has ended.
///
/// # Errors
/// For a certificate that cannot be used; later, when the listener fails.
pub(crate) async fn serve(
    config: &ServerConfig,
    context: Arc<Context>,
    gate: Arc<Gate>,
    listener: TcpListener,
) -> Result<tokio::task::JoinHandle<Result<(), tonic::transport::Error>>, ServerError> {
    let mut server = Server::builder();
    if let Some(tls) = tls(config)? {
        server = server.tls_config(tls).map_err(ServerError::Tls)?;
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    report_serving(&reporter).await;
    let routes = services::routes(&context).add_service(health);
    let routes = routes.add_service(reflection().build_v1().map_err(ServerError::Reflection)?);
    let routes = routes.add_service(reflection().build_v1alpha().map_err(ServerError::Reflection)?);
    let streams = u32::try_from(config.limits.calls_per_connection).unwrap_or(u32::MAX);
    let router = server
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(streams)
        .layer(cors(&config.server.cors_origins))
        .layer(GrpcWebLayer::new())
        .layer(AuthLayer(gate))
        .add_routes(routes);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEPALIVE_INTERVAL));
    let stop = context.stop.clone();
    Ok(tokio::spawn(async move {
        let ending = async move {
            stop.cancelled().await;
            reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        };
        router.serve_with_incoming_shutdown(incoming, ending).await
    }))
}

async fn report_serving(reporter: &HealthReporter) {
    let services = gofer_proto::json::descriptor_pool().services().map(|service| service.full_name().to_owned());
    for service in std::iter::once(String::new()).chain(services) {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The details of errors, which a client that knows nothing of them shows as base64.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

fn tls(config: &ServerConfig) -> Result<Option<ServerTlsConfig>, ServerError> {
    let tls = &config.server.tls;
    let (Some(cert_file), Some(key_file)) = (&tls.cert_file, &tls.key_file) else { return Ok(None) };
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|source| ServerError::File { path: path.to_owned(), source })
    };
    Ok(Some(ServerTlsConfig::new().identity(Identity::from_pem(read(cert_file)?, read(key_file)?))))
}

/// Without configured origins no page of another site may call: a browser on this machine can reach loopback, too.
fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let exposed = EXPOSED_HEADERS.map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::POST])
        .allow_headers(tower_http::cors::Any)
        .expose_headers(exposed)
        .max_age(PREFLIGHT_AGE)
}
