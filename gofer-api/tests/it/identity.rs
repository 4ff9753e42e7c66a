//! A namespace that is deleted and made again is another one, and belongs to nobody who had the
//! first.

use gofer_proto::v1;
use tonic::Code;

use crate::harness::{Clients, TestServer, assert_refused, on_each_database, pipeline, shell};

on_each_database!(a_namespace_made_again_is_not_the_old_teams);

async fn make(manager: &Clients) {
    let request = v1::CreateNamespaceRequest { id: "green".into(), ..Default::default() };
    manager.namespaces().create_namespace(request).await.unwrap();
}

async fn client(server: &TestServer, manager: &Clients) -> Clients {
    let kind = v1::TokenKind::Client.into();
    let request =
        v1::CreateTokenRequest { kind, namespaces: vec!["green".into()], ..Default::default() };
    server.with_token(&manager.tokens().create_token(request).await.unwrap().into_inner().secret)
}

async fn register(clients: &Clients) -> Result<(), tonic::Status> {
    let spec = Some(pipeline("ci", vec![shell("t", "true")]));
    let request =
        v1::RegisterPipelineRequest { namespace: "green".into(), spec, ..Default::default() };
    clients.pipelines().register_pipeline(request).await.map(drop)
}

async fn events(clients: &Clients, namespace: &str) -> Result<Vec<v1::Event>, tonic::Status> {
    let request = v1::ListEventsRequest { namespace: namespace.into(), ..Default::default() };
    Ok(clients.events().list_events(request).await?.into_inner().events)
}

async fn a_namespace_made_again_is_not_the_old_teams(server: TestServer) {
    let manager = server.anybody();
    make(&manager).await;
    let old = client(&server, &manager).await;
    register(&old).await.unwrap();

    let before = events(&old, "").await.unwrap().len();
    assert_eq!(before, 2);
    let delete = v1::DeletePipelineRequest { namespace: "green".into(), name: "ci".into() };
    old.pipelines().delete_pipeline(delete).await.unwrap();
    manager
        .namespaces()
        .delete_namespace(v1::DeleteNamespaceRequest { id: "green".into() })
        .await
        .unwrap();
    make(&manager).await;

    let new = client(&server, &manager).await;
    register(&new).await.unwrap();

    assert_refused(register(&old).await, Code::PermissionDenied, "FORBIDDEN");
    let start = v1::StartRunRequest {
        namespace: "green".into(),
        pipeline: "ci".into(),
        ..Default::default()
    };

    assert_refused(old.runs().start_run(start).await, Code::PermissionDenied, "FORBIDDEN");
    assert_refused(events(&old, "green").await, Code::PermissionDenied, "FORBIDDEN");
    assert!(events(&old, "").await.unwrap().is_empty());
    let me = old.tokens().who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner().token.unwrap();
    assert!(me.namespaces.is_empty(), "{me:?}");

    for namespace in ["", "green"] {
        let seen = events(&new, namespace).await.unwrap();
        assert_eq!(seen.len(), 2, "what the old team did is not the new one's: {seen:?}");
    }

    assert_eq!(events(&manager, "green").await.unwrap().len(), 2);
    assert!(
        events(&manager, "")
            .await
            .unwrap()
            .iter()
            .filter(|event| event.namespace == "green")
            .count()
            > 4
    );
}
