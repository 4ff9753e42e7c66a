//! What a client token is worth with a scheduler that keeps no task from another.

use std::collections::BTreeSet;

use gofer_proto::v1;
use tonic::Code;

use crate::harness::{Clients, TestServer, assert_refused};

async fn namespaces(clients: &Clients) {
    for id in ["red", "blue"] {
        let request = v1::CreateNamespaceRequest { id: id.into(), description: String::new() };
        clients.namespaces().create_namespace(request).await.unwrap();
    }
}

fn client(namespaces: &[&str]) -> v1::CreateTokenRequest {
    let namespaces = namespaces.iter().map(|id| (*id).to_owned()).collect();
    v1::CreateTokenRequest { kind: v1::TokenKind::Client.into(), namespaces, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_second_namespace_are_refused_where_nothing_isolates_them() {
    let server = TestServer::start_with(|config| config.scheduler.local.trusted = false).await;
    let clients = server.anybody();
    namespaces(&clients).await;
    let info = clients
        .system()
        .get_system_info(v1::GetSystemInfoRequest::default())
        .await
        .unwrap()
        .into_inner();

    assert!(!info.isolates_namespaces);

    let both = clients.tokens().create_token(client(&["red", "blue"])).await;
    assert_refused(both, Code::FailedPrecondition, "NAMESPACES_NOT_ISOLATED");
    let red = clients.tokens().create_token(client(&["red"])).await.unwrap().into_inner();
    let [warning] = red.warnings.as_slice() else { panic!("{:?}", red.warnings) };
    assert!(
        warning.contains("does not isolate namespaces")
            && warning.contains("scheduler.local.users"),
        "{warning}"
    );
    clients.tokens().create_token(client(&["red"])).await.unwrap();

    let blue = clients.tokens().create_token(client(&["blue"])).await.unwrap_err();
    for way_out in [
        "`scheduler.local.users`",
        "`scheduler.backend`",
        "`scheduler.local.trusted = true`",
        "`red`",
    ] {
        assert!(blue.message().contains(way_out), "{}", blue.message());
    }

    // Whom nobody believes any more does not count, and a management token never does.
    let management =
        v1::CreateTokenRequest { kind: v1::TokenKind::Management.into(), ..Default::default() };
    assert_eq!(
        clients.tokens().create_token(management).await.unwrap().into_inner().warnings,
        Vec::<String>::new()
    );

    let tokens = clients
        .tokens()
        .list_tokens(v1::ListTokensRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tokens;

    for token in tokens.into_iter().filter(|token| token.kind() == v1::TokenKind::Client) {
        clients.tokens().disable_token(v1::DisableTokenRequest { id: token.id }).await.unwrap();
    }

    clients.tokens().create_token(client(&["blue"])).await.unwrap();
    let id = red.token.unwrap().id;
    let again = clients.tokens().enable_token(v1::EnableTokenRequest { id }).await;
    assert_refused(again, Code::FailedPrecondition, "NAMESPACES_NOT_ISOLATED");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_first_clients_one_namespace_gets_its_own() {
    let server = TestServer::start_with(|config| config.scheduler.local.trusted = false).await;
    let clients = server.anybody();
    namespaces(&clients).await;

    let asked = (0..16).map(|number| {
        let (mut tokens, namespace) = (clients.tokens(), ["red", "blue"][number % 2]);
        async move { tokens.create_token(client(&[namespace])).await.is_ok().then_some(namespace) }
    });
    let made: BTreeSet<&str> =
        futures::future::join_all(asked).await.into_iter().flatten().collect();
    assert_eq!(made.len(), 1, "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_trusts_everybody_is_not_asked_again() {
    let server = TestServer::start().await;
    let clients = server.anybody();
    namespaces(&clients).await;
    for names in [&["red", "blue"][..], &["blue"]] {
        let made = clients.tokens().create_token(client(names)).await.unwrap().into_inner();
        assert_eq!(made.warnings, Vec::<String>::new());
    }
}
