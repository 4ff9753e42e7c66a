//! The first management token: for the operator, once, and again after a reset.

use std::os::unix::fs::PermissionsExt as _;

use gofer_api::config::{AuthMode, ServerConfig};
use gofer_api::{Server, ServerError, reset_bootstrap};
use gofer_proto::v1;
use tonic::Code;

use crate::harness::{TestServer, assert_refused, launcher, test_config};

fn with_tokens(config: &mut ServerConfig) {
    config.server.auth = AuthMode::On;
}

async fn bootstrap(
    server: &TestServer,
    code: &str,
) -> Result<v1::BootstrapTokenResponse, tonic::Status> {
    let request = v1::BootstrapTokenRequest { code: code.to_owned() };
    Ok(server.nobody().tokens().bootstrap_token(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_bearer_of_the_code_bootstraps() {
    let server = TestServer::start_with(with_tokens).await;
    let file = server.dir().join("data/bootstrap");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let code = server.bootstrap_code();
    let longer = format!("{code}x");

    for wrong in ["", "gofer_b_", &code[1..], &longer, &code.to_uppercase(), &"x".repeat(1 << 11)] {
        assert_refused(bootstrap(&server, wrong).await, Code::PermissionDenied, "FORBIDDEN");
    }

    assert!(!format!("{:?}", v1::BootstrapTokenRequest { code: code.clone() }).contains(&code));
    // The code outlives the server: an operator may have read it already.
    let server = TestServer::restart_with(server.stop().await, with_tokens).await;
    assert_eq!(server.bootstrap_code(), code);
    let first = bootstrap(&server, &code).await.unwrap();
    server.with_token(&first.secret).tokens().who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    assert!(!server.dir().join("data/bootstrap").exists());
    assert_refused(bootstrap(&server, &code).await, Code::FailedPrecondition, "CONFLICT");

    let server = TestServer::restart_with(server.stop().await, with_tokens).await;
    assert!(!server.dir().join("data/bootstrap").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_bring_a_code_of_their_own() {
    let files = tempfile::TempDir::new().unwrap();
    let file = files.path().join("code");
    let start = async |code: &str| {
        std::fs::write(&file, code).unwrap();
        let mut config = test_config(files.path());
        with_tokens(&mut config);
        config.server.bootstrap_token_file = Some(file.clone());
        Server::start(config, launcher()).await
    };

    for bad in ["", "short", &"x".repeat(31), &format!("\n{}", "x".repeat(40)), &"x".repeat(300)] {
        let refused = start(bad).await;
        let Err(ServerError::Config(error)) = refused else { panic!("{bad}: {refused:?}") };
        assert!(error.to_string().contains("server.bootstrap_token_file"), "{error}");
    }

    let own = "the-operators-own-code-0123456789";
    std::fs::write(&file, format!("{own}\nwhatever\n")).unwrap();
    let server = TestServer::start_with(|config| {
        with_tokens(config);
        config.server.bootstrap_token_file = Some(file);
    })
    .await;

    assert!(!server.dir().join("data/bootstrap").exists());
    assert_refused(bootstrap(&server, "gofer_b_x").await, Code::PermissionDenied, "FORBIDDEN");
    bootstrap(&server, own).await.unwrap();
    assert_refused(bootstrap(&server, own).await, Code::FailedPrecondition, "CONFLICT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_opens_it_for_a_new_code_and_waits_for_the_server_to_end() {
    let server = TestServer::start_with(with_tokens).await;
    let old = server.bootstrap_code();
    let lost = bootstrap(&server, &old).await.unwrap();
    let mut config = test_config(server.dir());
    with_tokens(&mut config);

    let refused = reset_bootstrap(config.clone()).await.unwrap_err();
    assert!(refused.contains("another Gofer server"), "{refused}");
    assert_refused(bootstrap(&server, &old).await, Code::FailedPrecondition, "CONFLICT");

    let dir = server.stop().await;
    let said = reset_bootstrap(config).await.unwrap();
    assert!(said.contains("data/bootstrap"), "{said}");
    let server = TestServer::restart_with(dir, with_tokens).await;
    assert_refused(bootstrap(&server, &old).await, Code::PermissionDenied, "FORBIDDEN");

    let again = bootstrap(&server, &server.bootstrap_code()).await.unwrap();
    let manager = server.with_token(&again.secret);
    let tokens = manager
        .tokens()
        .list_tokens(v1::ListTokensRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tokens;

    assert_eq!(tokens.len(), 2, "the one that was lost is still there");
    server.with_token(&lost.secret).tokens().who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let request =
        v1::ListEventsRequest { types: vec!["bootstrap_reset".to_owned()], ..Default::default() };
    let events = manager.events().list_events(request).await.unwrap().into_inner().events;
    assert_eq!(events.iter().map(|event| event.actor.as_str()).collect::<Vec<_>>(), ["operator"]);
}
