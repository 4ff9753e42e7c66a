//! Events: listed and followed from a cursor, filtered, and limited to what the caller may see.

use gofer_proto::v1;
use gofer_proto::v1::event::Details;
use tonic::Streaming;

use crate::harness::{Clients, TestServer, assert_invalid, on_each_database, pipeline, shell};

on_each_database!(
    a_run_leaves_its_events_in_order_and_without_gaps,
    a_follower_misses_nothing_and_repeats_nothing,
    filters_hold_and_bad_ones_are_refused,
    a_client_sees_its_namespaces_only,
);

async fn all(clients: &Clients, request: v1::ListEventsRequest) -> Vec<v1::Event> {
    let mut request = v1::ListEventsRequest { page_size: 7, ..request };
    let mut events = Vec::new();
    loop {
        let page = clients.events().list_events(request.clone()).await.unwrap().into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return events;
        }
        request.page_token = page.next_page_token;
    }
}

fn type_of(event: &v1::Event) -> &'static str {
    match event.details.as_ref().unwrap() {
        Details::ServerStarted(_) => "server_started",
        Details::NamespaceCreated(_) => "namespace_created",
        Details::PipelineRegistered(_) => "pipeline_registered",
        Details::RunCreated(_) => "run_created",
        Details::RunStarted(_) => "run_started",
        Details::TaskRunStarting(_) => "task_run_starting",
        Details::TaskRunRunning(_) => "task_run_running",
        Details::TaskRunCompleted(_) => "task_run_completed",
        Details::RunCompleted(_) => "run_completed",
        Details::LogArchived(_) => "log_archived",
        _ => "another",
    }
}

async fn one_run(clients: &Clients) {
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    let run = clients.start("ci").await;
    clients.finished("ci", run.run).await;
}

async fn a_run_leaves_its_events_in_order_and_without_gaps(server: TestServer) {
    let clients = server.anybody();
    one_run(&clients).await;
    let events = all(&clients, v1::ListEventsRequest::default()).await;
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    let first = ids[0];
    assert_eq!(ids, (first..first + ids.len() as u64).collect::<Vec<_>>());

    let of_run = v1::ListEventsRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        types: ["run_created", "run_started", "task_run_completed", "run_completed"]
            .map(str::to_owned)
            .to_vec(),
        ..Default::default()
    };

    let found = all(&clients, of_run.clone()).await;
    let types: Vec<_> = found.iter().map(type_of).collect();
    assert_eq!(types, ["run_created", "run_started", "task_run_completed", "run_completed"]);
    assert_eq!(
        (found[0].actor.as_str(), found[2].task.as_str(), found[2].attempt),
        ("dev", "t", 1)
    );

    let mut backwards = all(&clients, v1::ListEventsRequest { reverse: true, ..of_run }).await;
    backwards.reverse();
    assert_eq!(backwards, found);
}

async fn next(stream: &mut Streaming<v1::FollowEventsResponse>) -> v1::Event {
    loop {
        let response = stream.message().await.unwrap().unwrap();
        if let Some(event) = response.event {
            assert_eq!(response.cursor, event.id);
            return event;
        }
    }
}

async fn a_follower_misses_nothing_and_repeats_nothing(server: TestServer) {
    let clients = server.anybody();
    let follow = v1::FollowEventsRequest { after_id: Some(0), ..Default::default() };
    let mut from_start = clients.events().follow_events(follow).await.unwrap().into_inner();
    let follow = v1::FollowEventsRequest::default();
    let mut from_now = clients.events().follow_events(follow).await.unwrap().into_inner();
    one_run(&clients).await;

    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| type_of(event) != "run_completed") {
        seen.push(next(&mut from_start).await);
    }

    let listed = all(&clients, v1::ListEventsRequest::default()).await;
    assert_eq!(seen, listed[..seen.len()]);
    assert_eq!(type_of(&next(&mut from_now).await), "pipeline_registered");

    // After a cut, the id of the last event is where to go on.
    let cursor = seen[seen.len() - 2].id;
    let follow = v1::FollowEventsRequest { after_id: Some(cursor), ..Default::default() };
    let mut again = clients.events().follow_events(follow).await.unwrap().into_inner();
    assert_eq!(next(&mut again).await, seen[seen.len() - 1]);
}

async fn filters_hold_and_bad_ones_are_refused(server: TestServer) {
    let clients = server.anybody();
    let list = |request| {
        let mut events = clients.events();
        async move { events.list_events(request).await }
    };

    let lonely = v1::ListEventsRequest { pipeline: "ci".into(), ..Default::default() };
    assert_invalid(list(lonely).await, &["pipeline", "needs `namespace`"]);
    let lonely =
        v1::ListEventsRequest { namespace: "default".into(), run: 3, ..Default::default() };
    assert_invalid(list(lonely).await, &["run", "needs `pipeline`"]);

    let unknown =
        v1::ListEventsRequest { types: vec!["run_exploded".into()], ..Default::default() };
    assert_invalid(list(unknown).await, &["types[0]", "run_exploded"]);
    let follow = v1::FollowEventsRequest { namespace: "No Such".into(), ..Default::default() };
    assert_invalid(
        clients.events().follow_events(follow).await.map(|_| ()),
        &["namespace", "No Such"],
    );
}

async fn a_client_sees_its_namespaces_only(server: TestServer) {
    let everybody = server.anybody();
    for id in ["mine", "yours"] {
        let request = v1::CreateNamespaceRequest { id: id.into(), ..Default::default() };
        everybody.namespaces().create_namespace(request).await.unwrap();
    }
    let request = v1::CreateTokenRequest {
        kind: v1::TokenKind::Client.into(),
        namespaces: vec!["mine".into()],
        ..Default::default()
    };
    let secret = everybody.tokens().create_token(request).await.unwrap().into_inner().secret;
    let events = all(&server.with_token(&secret), v1::ListEventsRequest::default()).await;
    let namespaces: Vec<_> = events.iter().map(|event| event.namespace.as_str()).collect();
    assert_eq!(namespaces, ["mine"]);
}
