//! Quotas, over the wire: what is refused, what waits, and what is shown.

use std::collections::BTreeMap;

use bytes::Bytes;
use gofer_proto::v1;
use gofer_proto::v1::put_object_request::Part;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Clients, TestServer, assert_refused, eventually, pipeline, shell};

async fn set(clients: &Clients, id: &str, quota: &str, limit: u64) -> Vec<v1::Quota> {
    let limits = BTreeMap::from([(quota.to_owned(), limit)]);
    let request = v1::UpdateNamespaceQuotasRequest { id: id.into(), limits, defaults: Vec::new() };
    clients.namespaces().update_namespace_quotas(request).await.unwrap().into_inner().quotas
}

async fn used(clients: &Clients, id: &str, quota: &str) -> v1::Quota {
    let found = clients
        .namespaces()
        .get_namespace(v1::GetNamespaceRequest { id: id.into() })
        .await
        .unwrap();
    found.into_inner().quotas.into_iter().find(|found| found.name == quota).unwrap()
}

/// The namespace, with a pipeline whose only task runs this.
async fn namespace(clients: &Clients, id: &str, script: &str) {
    let request = v1::CreateNamespaceRequest { id: id.into(), description: String::new() };
    clients.namespaces().create_namespace(request).await.unwrap();
    let spec = Some(pipeline("ci", vec![shell("t", script)]));
    let request = v1::RegisterPipelineRequest { namespace: id.into(), spec, ..Default::default() };
    clients.pipelines().register_pipeline(request).await.unwrap();
}

async fn start(clients: &Clients, namespace: &str) -> Result<u64, Status> {
    let request = v1::StartRunRequest {
        namespace: namespace.into(),
        pipeline: "ci".into(),
        ..Default::default()
    };
    Ok(clients.runs().start_run(request).await?.into_inner().run.unwrap().run)
}

async fn run(clients: &Clients, namespace: &str, run: u64) -> v1::GetRunResponse {
    let request = v1::GetRunRequest { namespace: namespace.into(), pipeline: "ci".into(), run };
    clients.runs().get_run(request).await.unwrap().into_inner()
}

/// Waits until the task of this run of `red` says that it waits for this.
async fn says(clients: &Clients, number: u64, text: &str) {
    eventually("it is said what is waited for", || async {
        let found = run(clients, "red", number).await;
        let why = found.task_runs[0].reason.clone().unwrap_or_default().message;
        if why.contains(text) { Ok(()) } else { Err(why) }
    })
    .await;
}

async fn kill_all(clients: &Clients, namespace: &str, runs: u64) {
    for run in 1..=runs {
        let request = v1::CancelRunRequest {
            namespace: namespace.into(),
            pipeline: "ci".into(),
            run,
            force: true,
            ..Default::default()
        };
        clients.runs().cancel_run(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_namespace_leaves_slots_for_another() {
    let server = TestServer::start_with(|config| config.engine.max_executions = 16).await;
    let clients = server.anybody();
    namespace(&clients, "red", "exec sleep 600").await;
    namespace(&clients, "blue", "true").await;

    // When it says this, the server also knows that there are two namespaces.
    set(&clients, "red", "executions", 1).await;
    for _ in 0..2 {
        start(&clients, "red").await.unwrap();
    }

    says(
        &clients,
        2,
        "waiting: 1 of 1 executions of namespace red in flight on this server (quota `executions`)",
    )
    .await;
    set(&clients, "red", "executions", 1_000).await;

    for _ in 0..14 {
        start(&clients, "red").await.unwrap();
    }

    let kept = "the last 2 of 16 slots of this server are kept for namespaces with fewer";
    says(&clients, 16, kept).await;

    let ours = start(&clients, "blue").await.unwrap();
    eventually("the other's run is done", || async {
        let found = run(&clients, "blue", ours).await.run.unwrap();
        if found.state() == v1::RunState::Complete { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(
        used(&clients, "red", "active_runs").await.used,
        16,
        "none of red's runs had to end for it"
    );
    kill_all(&clients, "red", 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_a_quota_is_refused_with_what_there_is() {
    let server = TestServer::start().await;
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    set(&clients, "default", "runs_per_minute", 0).await;

    let refused = start(&clients, "default").await.unwrap_err();
    assert_refused::<()>(Err(refused.clone()), Code::ResourceExhausted, "QUOTA_EXCEEDED");
    assert!(
        refused.message().contains("gofer namespace update default --quota runs_per_minute=LIMIT"),
        "{refused:?}"
    );

    let metadata = refused.get_details_error_info().unwrap().metadata;
    assert_eq!((metadata["quota"].as_str(), metadata["limit"].as_str()), ("runs_per_minute", "0"));

    let request = v1::UpdateNamespaceQuotasRequest {
        id: "default".into(),
        defaults: vec!["runs_per_minute".into()],
        ..Default::default()
    };

    let quotas =
        clients.namespaces().update_namespace_quotas(request).await.unwrap().into_inner().quotas;
    assert!(quotas.iter().all(|quota| !quota.overridden), "{quotas:?}");
    start(&clients, "default").await.unwrap();
    clients.finished("ci", 1).await;
    assert_eq!(used(&clients, "default", "runs_per_minute").await.unit, "runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_does_not_exist_is_named_with_those_that_do() {
    let server = TestServer::start().await;
    let limits = BTreeMap::from([("invented".to_owned(), 1)]);
    let request =
        v1::UpdateNamespaceQuotasRequest { id: "default".into(), limits, defaults: Vec::new() };
    let refused = server.anybody().namespaces().update_namespace_quotas(request).await.unwrap_err();
    assert_refused::<()>(Err(refused.clone()), Code::InvalidArgument, "INVALID_INPUT");
    assert!(refused.message().contains("`object_bytes`"), "{refused:?}");
}

async fn put(clients: &Clients, key: &str, bytes: usize) -> Result<(), Status> {
    let header = v1::PutObjectHeader {
        namespace: "default".into(),
        pipeline: "ci".into(),
        key: key.into(),
        ..Default::default()
    };
    let parts = [Part::Header(header), Part::Chunk(Bytes::from(vec![7; bytes]))];
    let parts = parts.map(|part| v1::PutObjectRequest { part: Some(part) });
    clients.objects().put_object(tokio_stream::iter(parts)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_beyond_the_quota_leaves_nothing() {
    let server = TestServer::start().await;
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    set(&clients, "default", "object_bytes", 1_000).await;
    put(&clients, "x", 600).await.unwrap();
    assert_refused(put(&clients, "y", 401).await, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    assert_eq!(used(&clients, "default", "object_bytes").await.used, 600);
    put(&clients, "z", 400).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_stop_above_the_floor_of_free_disk() {
    let server = TestServer::start_with(|config| config.limits.free_disk_min = u64::MAX).await;
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "echo done")])).await;
    let refused = put(&clients, "x", 1).await.unwrap_err();
    assert_refused::<()>(Err(refused.clone()), Code::Unavailable, "DISK_FULL");
    assert!(refused.message().contains("limits.free_disk_min"), "{refused:?}");
    clients.start("ci").await;
    let found = clients.finished("ci", 1).await.run.unwrap();
    assert_eq!(found.status(), v1::RunStatus::Successful, "runs go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_too_slow_is_given_up() {
    let server = TestServer::start_with(|config| {
        config.limits.idle_timeout = std::time::Duration::from_secs(1);
        config.limits.upload_min_rate = 1 << 40;
    })
    .await;
    let clients = server.anybody();

    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    let header = v1::PutObjectHeader {
        namespace: "default".into(),
        pipeline: "ci".into(),
        key: "x".into(),
        ..Default::default()
    };

    // Never idle, never done: a byte each time the server has taken one.
    let (sender, parts) = tokio::sync::mpsc::channel(1);
    sender.send(v1::PutObjectRequest { part: Some(Part::Header(header)) }).await.unwrap();
    let feeding = tokio::spawn(async move {
        let byte = || v1::PutObjectRequest { part: Some(Part::Chunk(Bytes::from_static(b"x"))) };
        while sender.send(byte()).await.is_ok() {}
    });

    let parts = tokio_stream::wrappers::ReceiverStream::new(parts);
    let refused = clients.objects().put_object(parts).await.unwrap_err();
    assert_refused::<()>(Err(refused.clone()), Code::DeadlineExceeded, "UPLOAD_TOO_SLOW");
    feeding.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_beyond_the_quota_of_active_runs_waits_and_says_so() {
    let server = TestServer::start().await;
    let clients = server.anybody();
    namespace(&clients, "red", "exec sleep 600").await;
    set(&clients, "red", "active_runs", 1).await;
    start(&clients, "red").await.unwrap();
    let second = start(&clients, "red").await.unwrap();
    let found = run(&clients, "red", second).await.run.unwrap();
    assert_eq!(found.state(), v1::RunState::Pending);
    let why = found.reason.unwrap().message;
    assert_eq!(why, "waiting: 1 of 1 active runs of namespace red (quota `active_runs`)");
    kill_all(&clients, "red", second).await;
}
