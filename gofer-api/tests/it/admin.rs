//! Namespaces, tokens, the system, and what is not built yet.

use gofer_proto::v1;
use tonic::Code;

use crate::harness::{
    TestServer, assert_invalid, assert_refused, on_each_database, pipeline, shell,
};

on_each_database!(
    namespaces_are_made_changed_and_removed,
    tokens_are_made_switched_and_removed,
    a_client_token_works_in_its_namespaces,
    the_system_tells_how_it_is,
    what_is_not_built_yet_says_so,
);

fn namespace(id: &str) -> v1::CreateNamespaceRequest {
    v1::CreateNamespaceRequest { id: id.into(), description: "for tests".into() }
}

async fn namespaces_are_made_changed_and_removed(server: TestServer) {
    let clients = server.anybody();
    let made =
        clients.namespaces().create_namespace(namespace("team-a")).await.unwrap().into_inner();
    assert_eq!(made.namespace.unwrap().description, "for tests");

    let again = clients.namespaces().create_namespace(namespace("team-a")).await;
    assert_refused(again, Code::AlreadyExists, "NAMESPACE_ALREADY_EXISTS");
    for bad in ["", "Team A", "..", "a/b"] {
        assert_invalid(
            clients.namespaces().create_namespace(namespace(bad)).await,
            &["id", bad, "lower-case"],
        );
    }

    let long = v1::CreateNamespaceRequest { description: "x".repeat(5_000), ..namespace("b") };
    assert_invalid(
        clients.namespaces().create_namespace(long).await,
        &["description", "5000 bytes"],
    );

    let change = v1::UpdateNamespaceRequest { id: "team-a".into(), description: "other".into() };
    let changed = clients
        .namespaces()
        .update_namespace(change)
        .await
        .unwrap()
        .into_inner()
        .namespace
        .unwrap();

    assert_eq!(changed.description, "other");
    let list = clients
        .namespaces()
        .list_namespaces(v1::ListNamespacesRequest::default())
        .await
        .unwrap()
        .into_inner();

    assert_eq!(
        list.namespaces.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(),
        ["default", "team-a"]
    );

    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    let delete = |id: &str| v1::DeleteNamespaceRequest { id: id.into() };
    let default = clients.namespaces().delete_namespace(delete("default")).await;
    assert_refused(default, Code::FailedPrecondition, "CONFLICT");
    clients.namespaces().delete_namespace(delete("team-a")).await.unwrap();

    let gone =
        clients.namespaces().get_namespace(v1::GetNamespaceRequest { id: "team-a".into() }).await;
    assert_refused(gone, Code::NotFound, "NAMESPACE_NOT_FOUND");
}

fn token(kind: v1::TokenKind, namespaces: &[&str]) -> v1::CreateTokenRequest {
    let namespaces = namespaces.iter().map(|id| (*id).to_owned()).collect();
    v1::CreateTokenRequest {
        kind: kind.into(),
        namespaces,
        description: "of a test".into(),
        expires_after: None,
    }
}

async fn tokens_are_made_switched_and_removed(server: TestServer) {
    let anybody = server.anybody();
    let no_code = v1::BootstrapTokenRequest::default;
    let stranger = server.nobody().tokens().bootstrap_token(no_code()).await;
    assert_refused(stranger, Code::PermissionDenied, "FORBIDDEN");

    let first = anybody.tokens().bootstrap_token(no_code()).await.unwrap().into_inner();
    assert!(first.secret.starts_with("gofer_t_") && !format!("{first:?}").contains(&first.secret));
    let second = anybody.tokens().bootstrap_token(no_code()).await;
    assert_refused(second, Code::FailedPrecondition, "CONFLICT");

    let manager = server.with_token(&first.secret);
    let me =
        manager.tokens().who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner().token.unwrap();
    assert_eq!((me.kind(), me.created_by.as_str()), (v1::TokenKind::Management, "bootstrap"));

    let own =
        anybody.tokens().who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner().token.unwrap();
    assert_eq!((own.id.as_str(), own.kind()), ("dev", v1::TokenKind::Management));

    let last = v1::DeleteTokenRequest { id: me.id.clone() };
    let refused = manager.tokens().delete_token(last.clone()).await;
    assert_refused(refused, Code::FailedPrecondition, "LAST_MANAGEMENT_TOKEN");
    let refused =
        manager.tokens().disable_token(v1::DisableTokenRequest { id: me.id.clone() }).await;
    assert_refused(refused, Code::FailedPrecondition, "LAST_MANAGEMENT_TOKEN");

    let other = manager
        .tokens()
        .create_token(token(v1::TokenKind::Management, &[]))
        .await
        .unwrap()
        .into_inner();
    let other = other.token.unwrap();

    assert_eq!(other.created_by, me.id);
    let off = manager
        .tokens()
        .disable_token(v1::DisableTokenRequest { id: other.id.clone() })
        .await
        .unwrap();

    assert!(off.into_inner().token.unwrap().disabled);
    let on = manager
        .tokens()
        .enable_token(v1::EnableTokenRequest { id: other.id.clone() })
        .await
        .unwrap();

    assert!(!on.into_inner().token.unwrap().disabled);
    manager.tokens().delete_token(last).await.unwrap();
    let list =
        anybody.tokens().list_tokens(v1::ListTokensRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.tokens.iter().map(|one| &one.id).collect::<Vec<_>>(), [&other.id]);

    let unknown = anybody.tokens().delete_token(v1::DeleteTokenRequest { id: "none".into() }).await;
    assert_refused(unknown, Code::NotFound, "TOKEN_NOT_FOUND");
}

async fn a_client_token_works_in_its_namespaces(server: TestServer) {
    let anybody = server.anybody();
    anybody.namespaces().create_namespace(namespace("team-a")).await.unwrap();
    let create = |request| {
        let mut tokens = anybody.tokens();
        async move { tokens.create_token(request).await }
    };

    assert_invalid(
        create(token(v1::TokenKind::Client, &[])).await,
        &["namespaces", "names the namespaces"],
    );
    assert_invalid(
        create(token(v1::TokenKind::Management, &["team-a"])).await,
        &["namespaces", "empty"],
    );
    assert_invalid(
        create(token(v1::TokenKind::Run, &["team-a"])).await,
        &["kind", "MANAGEMENT (1) or CLIENT (2)"],
    );

    let ghost = create(token(v1::TokenKind::Client, &["ghost"])).await;
    assert_refused(ghost, Code::NotFound, "NAMESPACE_NOT_FOUND");
    let mut short = token(v1::TokenKind::Client, &["team-a"]);
    short.expires_after = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    assert_invalid(create(short).await, &["expires_after", "5s", "1 minute to 10 years"]);

    let made = create(token(v1::TokenKind::Client, &["team-a"])).await.unwrap().into_inner();
    let client = server.with_token(&made.secret);
    let list = client
        .namespaces()
        .list_namespaces(v1::ListNamespacesRequest::default())
        .await
        .unwrap()
        .into_inner();

    assert_eq!(list.namespaces.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["team-a"]);
    let foreign = client.try_register(pipeline("ci", vec![shell("t", "true")])).await;
    assert_refused(foreign, Code::PermissionDenied, "FORBIDDEN");
    let own = v1::RegisterPipelineRequest {
        namespace: "team-a".into(),
        spec: Some(pipeline("ci", vec![shell("t", "true")])),
        ..Default::default()
    };

    let made_by = client.pipelines().register_pipeline(own).await.unwrap().into_inner();
    assert_eq!(made_by.version, 1);
}

async fn the_system_tells_how_it_is(server: TestServer) {
    let clients = server.anybody();
    let request = v1::GetSystemInfoRequest { check_backends: true };
    let info = clients.system().get_system_info(request).await.unwrap().into_inner();
    assert_eq!((info.version.as_str(), info.dev_mode), (gofer_api::VERSION, true));
    assert!(info.last_event_id > 0 && info.started_at.is_some() && !info.server_id.is_empty());

    let kinds: Vec<_> = info.backends.iter().map(v1::Backend::kind).collect();
    let expected = [
        v1::BackendKind::Database,
        v1::BackendKind::Scheduler,
        v1::BackendKind::ObjectStore,
        v1::BackendKind::SecretStore,
    ];

    assert_eq!(kinds, expected);
    for backend in &info.backends {
        assert!(backend.ok, "{backend:?}");
        assert!(!backend.message.contains('@'), "no credential: {backend:?}");
    }

    let known = clients
        .system()
        .get_system_info(v1::GetSystemInfoRequest::default())
        .await
        .unwrap()
        .into_inner();

    assert_eq!(known.backends, info.backends);

    // Paths and processes of the machine are for its managers.
    let made = clients
        .tokens()
        .create_token(token(v1::TokenKind::Client, &["default"]))
        .await
        .unwrap()
        .into_inner();
    let client = server.with_token(&made.secret);

    for check_backends in [true, false] {
        let request = v1::GetSystemInfoRequest { check_backends };
        let shown = client.system().get_system_info(request).await.unwrap().into_inner();
        let found: Vec<_> =
            shown.backends.iter().map(|one| (one.kind(), one.ok, one.message.as_str())).collect();
        assert_eq!(found, expected.map(|kind| (kind, true, "")));

        let data = server.dir().display().to_string();
        assert!(
            !format!("{shown:?}").contains(&data) && format!("{info:?}").contains(&data),
            "{shown:?} {info:?}"
        );
    }
}

async fn what_is_not_built_yet_says_so(server: TestServer) {
    let clients = server.anybody();
    let triggers = clients.triggers().list_triggers(v1::ListTriggersRequest::default()).await;
    assert_refused(triggers, Code::Unimplemented, "NOT_IN_THIS_VERSION");
    let tasks =
        clients.common_tasks().list_common_tasks(v1::ListCommonTasksRequest::default()).await;
    assert_refused(tasks, Code::Unimplemented, "NOT_IN_THIS_VERSION");
    let connect = clients.triggers().connect_trigger(futures::stream::empty()).await.map(|_| ());
    assert_refused(connect, Code::Unimplemented, "NOT_IN_THIS_VERSION");
}
