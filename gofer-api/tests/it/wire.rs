//! The port itself: gRPC-Web by plain HTTP/1.1, reflection, health, error details, foreign hosts,
//! CORS.

use gofer_proto::v1;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::certificates::{Authority, Files};
use crate::harness::{TestServer, assert_invalid, assert_refused, pipeline, shell};

/// One HTTP/1.1 request on a connection of its own, and the whole answer.
async fn http(server: &TestServer, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut connection = TcpStream::connect(server.server().addr()).await.unwrap();
    let head = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an HTTP answer has a head");
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end + 4..].to_vec())
}

/// A message as gRPC frames it.
fn frame(message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
    framed.extend(encoded);
    framed
}

const GET_NAMESPACE: &str = "POST /gofer.v1.NamespaceService/GetNamespace HTTP/1.1\r\n\
    Content-Type: application/grpc-web+proto\r\nX-Grpc-Web: 1\r\n";

fn authorized(server: &TestServer, head: &str) -> String {
    format!("{head}Authorization: Bearer {}\r\n", server.own_token().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_can_call_it() {
    let server = TestServer::start().await;
    let body = frame(&v1::GetNamespaceRequest { id: "default".into() });
    let request = authorized(&server, &format!("{GET_NAMESPACE}Host: localhost\r\n"));
    let (head, answer) = http(&server, &request, &body).await;
    assert!(
        head.starts_with("http/1.1 200") && head.contains("application/grpc-web+proto"),
        "{head}"
    );

    let expected = b"default";
    assert!(answer.windows(expected.len()).any(|window| window == expected), "{answer:?}");
    assert!(String::from_utf8_lossy(&answer).contains("grpc-status:0"), "{answer:?}");

    let body = frame(&v1::GetNamespaceRequest { id: "ghost".into() });
    let request = authorized(&server, &format!("{GET_NAMESPACE}Host: localhost\r\n"));
    let (head, answer) = http(&server, &request, &body).await;
    let all = format!("{head}{}", String::from_utf8_lossy(&answer));
    assert!(all.contains("grpc-status:5") || all.contains("grpc-status: 5"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_cannot() {
    let server = TestServer::start().await;
    let body = frame(&v1::GetNamespaceRequest { id: "default".into() });

    // Another name that leads to this machine.
    let (head, answer) =
        http(&server, &format!("{GET_NAMESPACE}Host: evil.example:8469\r\n"), &body).await;
    let all = format!("{head}{}", String::from_utf8_lossy(&answer));
    assert!(all.contains("grpc-status: 7") || all.contains("grpc-status:7"), "{all}");

    let preflight = "OPTIONS /gofer.v1.NamespaceService/GetNamespace HTTP/1.1\r\nHost: \
                     localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: \
                     POST\r\n";
    let (head, _) = http(&server, preflight, b"").await;
    assert!(!head.contains("access-control-allow-origin"), "{head}");
    drop(server);

    let origins = |config: &mut gofer_api::config::ServerConfig| {
        config.server.cors_origins = vec!["https://ci.example".to_owned()];
    };

    let server = TestServer::start_with(origins).await;
    let (head, _) = http(&server, &preflight.replace("evil.example", "ci.example"), b"").await;
    assert!(head.contains("access-control-allow-origin: https://ci.example"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_without_a_token() {
    let server =
        TestServer::start_with(|config| config.server.auth = gofer_api::config::AuthMode::On).await;
    let mut health = HealthClient::new(server.channel());

    for service in ["", "gofer.v1.RunService"] {
        let answer = health
            .check(HealthCheckRequest { service: service.into() })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }

    let mut reflection = ServerReflectionClient::new(server.channel());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };

    let mut answers = reflection
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };

    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for expected in ["gofer.v1.RunService", "gofer.v1.TriggerService", "grpc.health.v1.Health"] {
        assert!(names.contains(&expected), "{expected} is not in {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_knows_the_details_of_errors() {
    let server = TestServer::start().await;
    let mut reflection = ServerReflectionClient::new(server.channel());
    for name in [
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
        "google.rpc.RetryInfo",
        "google.rpc.Status",
    ] {
        let message_request = Some(MessageRequest::FileContainingSymbol(name.to_owned()));
        let request = ServerReflectionRequest { host: String::new(), message_request };
        let mut answers = reflection
            .server_reflection_info(futures::stream::iter([request]))
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response;
        assert!(
            matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))),
            "{name}: {answer:?}"
        );
    }
}

/// Headers that are too long end in an error of HTTP/2, which says nothing of the reason.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_arrives_however_long_it_is() {
    let server = TestServer::start().await;
    let clients = server.anybody();

    let name = |at: usize| format!("{}-{at}", "a-task-with-a-long-name".repeat(2));
    let mut tasks: Vec<_> = (0..1000).map(|at| shell(&name(at), "true")).collect();
    for (at, task) in tasks.iter_mut().enumerate() {
        task.depends_on
            .push(v1::Dependency { task: name((at + 999) % 1000), ..Default::default() });
    }

    let refused = clients.try_register(pipeline("c", tasks)).await;
    assert_invalid(refused, &["in a circle", "more"]);

    let tasks = (0..1000).map(|at| shell(&format!("{}-{at}", "`ä".repeat(100)), "")).collect();
    assert_invalid(clients.try_register(pipeline("c", tasks)).await, &["tasks["]);

    for id in ["x".repeat(1 << 20), "`ä ".repeat(1 << 18)] {
        let refused = clients.tokens().disable_token(v1::DisableTokenRequest { id }).await;
        assert_refused(refused, Code::NotFound, "TOKEN_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let server = TestServer::start().await;
    let answer =
        crate::raw::call(&server.channel(), "/gofer.v1.RunService/Invented", None, Vec::new())
            .await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_every_limit_is_refused() {
    let server = TestServer::start().await;
    let request =
        v1::CreateNamespaceRequest { id: "x".into(), description: "x".repeat(5 * 1024 * 1024) };
    let status = server.anybody().namespaces().create_namespace(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("at most 4194304 bytes"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let authority = Authority::new();
    let files = Files::new(authority.sign());
    let server = files.serve(None).await;

    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", server.server().addr())).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let (path, own) = ("/gofer.v1.NamespaceService/ListNamespaces", server.own_token());

    crate::raw::call(&channel, path, own.as_deref(), Vec::new()).await.unwrap();
    assert_eq!(
        crate::raw::call(&channel, path, None, Vec::new()).await.unwrap_err().code(),
        Code::Unauthenticated
    );

    let plain =
        server.anybody().namespaces().list_namespaces(v1::ListNamespacesRequest::default()).await;
    assert!(plain.is_err(), "plain text was answered");

    // A key that is none stops the start, with the reason.
    let other = tempfile::TempDir::new().unwrap();
    let mut config = crate::harness::test_config(other.path());
    let cert_file = files.path("tls.crt");
    (config.server.tls.cert_file, config.server.tls.key_file) =
        (Some(cert_file.clone()), Some(cert_file));

    let error = gofer_api::Server::start(config, crate::harness::launcher()).await.unwrap_err();
    assert!(error.to_string().contains("server.tls"), "{error}");
}
