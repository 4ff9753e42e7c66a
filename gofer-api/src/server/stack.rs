//! One port for gRPC, gRPC-Web, health and reflection.
//!
//! ```text
//! listener ── Connections (limits) ── TLS ── Metered ── HTTP ── content type ── CORS ── gRPC-Web ── auth ── intake ── services
//! ```

use std::sync::Arc;
use std::time::Duration;

use gofer_proto::FILE_DESCRIPTOR_SET;
use http::{HeaderName, HeaderValue, Method, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::error::ServerError;
use super::measure::MeasureLayer;
use crate::auth::{AuthLayer, Authenticator};
use crate::config::ServerConfig;
use crate::intake::{Intake, IntakeLayer};
use crate::rpc::context::Context;
use crate::services;
use crate::transport::{Acceptor, Certificates, GrpcOnlyLayer};

/// Headers of answers that a web page may read.
const EXPOSED_HEADERS: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
/// How long a browser may remember what it may ask.
const PREFLIGHT_AGE_MAX: Duration = Duration::from_secs(3600);

/// Serves until the context says stop and every call has ended. Dropped or aborted, it cuts off
/// what is left.
///
/// # Errors
/// When the contract's descriptors cannot be served.
pub(crate) async fn serve(
    config: &ServerConfig,
    context: Arc<Context>,
    authenticator: Arc<Authenticator>,
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
) -> Result<JoinHandle<()>, ServerError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    report_serving(&reporter).await;
    let routes = services::routes(&context).add_service(health);
    let routes = routes.add_service(reflection().build_v1().map_err(ServerError::Reflection)?);
    let routes = routes.add_service(reflection().build_v1alpha().map_err(ServerError::Reflection)?);

    let intake = IntakeLayer(Arc::new(Intake::new(&config.limits)));
    let calls = AuthLayer(authenticator).layer(intake.layer(routes.prepare()));
    let calls = MeasureLayer(context.metrics.clone()).layer(calls);
    let stack = GrpcOnlyLayer
        .layer(cors(&config.server.cors_origins).layer(GrpcWebLayer::new().layer(calls)));
    let stack = BoxCloneSyncService::new(stack.map_response(|answer: Response<Body>| answer));
    let stop = context.stop.clone();
    let metrics = context.metrics.clone();
    let acceptor = Acceptor::new(&config.limits, certificates, stack, stop.clone(), metrics);

    Ok(tokio::spawn(async move {
        let notice = async move {
            stop.cancelled().await;
            reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        };
        tokio::join!(acceptor.run(listener), notice);
    }))
}

async fn report_serving(reporter: &HealthReporter) {
    let services = gofer_proto::json::descriptor_pool()
        .services()
        .map(|service| service.full_name().to_owned());
    for service in std::iter::once(String::new()).chain(services) {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // With the types of error details a client shows them; without, it shows base64.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// Without configured origins no page of another site may call: a browser on this machine can reach
/// loopback, too.
fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let exposed = EXPOSED_HEADERS.map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::POST])
        .allow_headers(tower_http::cors::Any)
        .expose_headers(exposed)
        .max_age(PREFLIGHT_AGE_MAX)
}
