//! Starting, ending, starting again; what cannot be started; `check`.

use std::net::SocketAddr;

use gofer_api::config::ServerConfig;
use gofer_api::{Server, ServerError, check};
use gofer_proto::v1;
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tonic::Code;

use crate::harness::{TestServer, assert_refused, launcher, pipeline, shell, test_config};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_is_refused_with_a_reason() {
    let first = TestServer::start().await;
    let error = Server::start(test_config(first.dir()), launcher()).await.unwrap_err();
    let ServerError::Database(source) = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("another Gofer server uses"), "{source}");

    let mut config = test_config(TempDir::new().unwrap().path());
    config.server.listen = first.server().addr();
    let error = Server::start(config, launcher()).await.unwrap_err();
    assert!(error.to_string().contains("is another server running there"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let server = TestServer::start().await;
    let go = server.dir().join("go");
    let line =
        format!("echo before; while ! test -e {}; do sleep 0.01; done; echo after", go.display());
    server.anybody().register(pipeline("ci", vec![shell("t", &line)])).await;
    server.anybody().start("ci").await;

    let request = v1::StreamLogsRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        task: "t".into(),
        follow: true,
        ..Default::default()
    };

    let mut log = server.anybody().task_runs().stream_logs(request).await.unwrap().into_inner();
    log.message().await.unwrap().unwrap();
    let mut updates = server
        .anybody()
        .events()
        .follow_events(v1::FollowEventsRequest::default())
        .await
        .unwrap()
        .into_inner();

    // Streams end with the server, and say so.
    let dir = server.stop().await;
    let ended = loop {
        match updates.message().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };

    assert_refused(ended, Code::Unavailable, "SHUTTING_DOWN");

    let server = TestServer::restart(dir).await;
    std::fs::write(server.dir().join("go"), "").unwrap();
    let done = server.anybody().finished("ci", 1).await;
    assert_eq!(done.run.unwrap().status(), v1::RunStatus::Successful);
    assert_eq!(done.task_runs[0].attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_server_hands_out_the_only_token() {
    let dir = TempDir::new().unwrap();
    let server =
        TestServer::start_with(|config| *config = ServerConfig::ephemeral(dir.path().join("data")))
            .await;
    let anybody =
        server.anybody().namespaces().list_namespaces(v1::ListNamespacesRequest::default()).await;

    assert_refused(anybody, Code::Unauthenticated, "TOKEN_MISSING");
    assert!(!dir.path().join("data/token").exists() && !dir.path().join("data/bootstrap").exists());
    let token = server.server().management_token().unwrap().expose_secret().to_owned();
    server
        .with_token(&token)
        .namespaces()
        .list_namespaces(v1::ListNamespacesRequest::default())
        .await
        .unwrap();
    assert!(!format!("{:?}", server.server()).contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_everything_and_leaves_it_usable() {
    let dir = TempDir::new().unwrap();
    let lines = check(test_config(dir.path()), launcher()).await;
    let names: Vec<_> = lines.iter().map(|line| (line.what.as_str(), line.ok)).collect();
    let expected = ["configuration", "database", "scheduler", "object store", "secret store"]
        .map(|what| (what, true));
    assert_eq!(names, expected, "{lines:?}");

    let server = TestServer::restart(dir).await;

    let taken = check(test_config(server.dir()), launcher()).await;
    let last = taken.last().unwrap();
    assert!(!last.ok && last.message.contains("another Gofer server"), "{taken:?}");

    let mut open = test_config(TempDir::new().unwrap().path());
    open.server.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let wrong = check(open, launcher()).await;
    assert!(!wrong[0].ok && wrong[0].message.contains("allow_insecure_listen"), "{wrong:?}");
}
