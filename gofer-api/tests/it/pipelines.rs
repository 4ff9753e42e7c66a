//! Pipelines: registering, planning, looking, switching, deleting, and what bad specs hear.

use gofer_proto::v1;
use gofer_proto::v1::PipelineChangeKind::{Added, Modified, Removed};
use tonic::Code;

use crate::harness::{
    TestServer, after, assert_invalid, assert_refused, on_each_database, pipeline, refusal, shell,
};

on_each_database!(
    registering_makes_versions_only_of_what_changed,
    a_plan_changes_nothing,
    two_registrations_at_once_both_count,
    lists_come_in_pages,
    a_deleted_pipeline_is_gone,
    bad_specs_are_refused_by_field_and_rule,
    names_are_checked_everywhere,
);

fn ci() -> v1::PipelineSpec {
    let mut spec =
        pipeline("ci", vec![shell("build", "true"), after(shell("test", "true"), &["build"])]);
    spec.description = "builds and tests".into();
    spec
}

fn named(name: &str) -> v1::GetPipelineRequest {
    v1::GetPipelineRequest { namespace: "default".into(), name: name.into() }
}

async fn registering_makes_versions_only_of_what_changed(server: TestServer) {
    let clients = server.anybody();
    let first = clients.register(ci()).await;
    assert_eq!((first.version, first.changed), (1, true));
    assert!(first.changes.iter().all(|change| change.kind() == Added), "{:?}", first.changes);

    let mut reordered = ci();
    reordered.tasks.reverse();
    let same = clients.register(reordered).await;
    assert_eq!((same.version, same.changed, same.changes.len()), (1, false, 0));

    let mut other = ci();
    other.tasks[1].continue_on_failure = true;
    other.description.clear();
    other.variables.insert("A".into(), "1".into());

    let second = clients.register(other.clone()).await;
    let changes: Vec<_> =
        second.changes.iter().map(|change| (change.kind(), change.path.as_str())).collect();
    let expected = [
        (Removed, "description"),
        (Added, "tasks.test.continue_on_failure"),
        (Added, "variables.A"),
    ];

    assert_eq!((second.version, second.changed), (2, true));
    assert_eq!(changes, expected);

    other.variables.insert("A".into(), "2".into());
    let third = clients.register(other.clone()).await;
    let change = &third.changes[0];
    assert_eq!(
        (change.kind(), change.before.as_str(), change.after.as_str()),
        (Modified, "\"1\"", "\"2\"")
    );

    let found =
        clients.pipelines().get_pipeline(named("ci")).await.unwrap().into_inner().pipeline.unwrap();
    assert_eq!((found.latest_version, found.enabled, found.description.as_str()), (3, true, ""));
    let request = v1::GetPipelineVersionRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        version: 1,
    };

    let old = clients
        .pipelines()
        .get_pipeline_version(request)
        .await
        .unwrap()
        .into_inner()
        .version
        .unwrap();

    assert_eq!(old.spec.unwrap().description, "builds and tests");
    assert_eq!((old.registered_by.as_str(), old.digest.len()), ("dev", 64));
}

async fn a_plan_changes_nothing(server: TestServer) {
    let clients = server.anybody();
    let plan = |spec| v1::RegisterPipelineRequest {
        namespace: "default".into(),
        spec: Some(spec),
        plan_only: true,
        expected_version: None,
    };

    let new = clients.pipelines().register_pipeline(plan(ci())).await.unwrap().into_inner();
    assert_eq!((new.version, new.changed, new.pipeline), (1, true, None));
    assert_refused(
        clients.pipelines().get_pipeline(named("ci")).await,
        Code::NotFound,
        "PIPELINE_NOT_FOUND",
    );

    clients.register(ci()).await;
    let same = clients.pipelines().register_pipeline(plan(ci())).await.unwrap().into_inner();
    assert_eq!((same.version, same.changed), (1, false));
    let mut other = ci();
    other.tasks.pop();

    let other = clients.pipelines().register_pipeline(plan(other)).await.unwrap().into_inner();
    assert_eq!((other.version, other.changed, other.changes.len()), (2, true, 1));
    let found =
        clients.pipelines().get_pipeline(named("ci")).await.unwrap().into_inner().pipeline.unwrap();
    assert_eq!(found.latest_version, 1);
}

async fn two_registrations_at_once_both_count(server: TestServer) {
    let clients = server.anybody();
    let specs = (0..8).map(|at| {
        let mut spec = ci();
        spec.variables.insert("AT".into(), at.to_string());
        clients.try_register(spec)
    });

    let answers = futures::future::join_all(specs).await;
    let mut versions: Vec<u64> =
        answers.into_iter().map(|answer| answer.unwrap().version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());

    // With an expectation only one of them gets through, and the others hear what the latest is.
    let expecting = (0..4).map(|at| {
        let mut spec = ci();
        spec.description = format!("number {at}");
        let request = v1::RegisterPipelineRequest {
            namespace: "default".into(),
            spec: Some(spec),
            plan_only: false,
            expected_version: Some(8),
        };

        let mut pipelines = clients.pipelines();
        async move { pipelines.register_pipeline(request).await }
    });

    let answers = futures::future::join_all(expecting).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 3));

    for answer in lost {
        let (code, reason, text) = refusal(answer);
        assert_eq!((code, reason.as_str()), (Code::Aborted, "VERSION_CONFLICT"));
        assert!(text.contains("latest version is 9, not 8"), "{text}");
    }
}

async fn lists_come_in_pages(server: TestServer) {
    let clients = server.anybody();
    for name in ["a", "b", "c", "d", "e"] {
        clients.register(pipeline(name, vec![shell("t", "true")])).await;
    }

    let mut request = v1::ListPipelinesRequest {
        namespace: "default".into(),
        page_size: 2,
        ..Default::default()
    };

    let mut pages = Vec::new();
    loop {
        let page = clients.pipelines().list_pipelines(request.clone()).await.unwrap().into_inner();
        pages.push(page.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect::<Vec<_>>());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }

    assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);

    let other = v1::ListPipelinesRequest { page_size: 501, ..request.clone() };
    assert_invalid(
        clients.pipelines().list_pipelines(other).await,
        &["page_size", "501", "at most 500"],
    );

    let other = v1::ListPipelinesRequest { page_token: "made-up".into(), ..request.clone() };
    assert_invalid(clients.pipelines().list_pipelines(other).await, &["page_token", "made-up"]);
    let stolen = v1::ListPipelineVersionsRequest {
        namespace: "default".into(),
        pipeline: "a".into(),
        page_size: 2,
        page_token: request.page_token,
    };

    assert_invalid(clients.pipelines().list_pipeline_versions(stolen).await, &["page_token"]);

    let versions = v1::ListPipelineVersionsRequest {
        namespace: "default".into(),
        pipeline: "a".into(),
        ..Default::default()
    };

    let versions =
        clients.pipelines().list_pipeline_versions(versions).await.unwrap().into_inner().versions;
    assert_eq!((versions.len(), versions[0].version, versions[0].spec.is_none()), (1, 1, true));
}

async fn a_deleted_pipeline_is_gone(server: TestServer) {
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("wait", "sleep 600")])).await;
    let run = clients.start("ci").await;
    let delete = v1::DeletePipelineRequest { namespace: "default".into(), name: "ci".into() };
    let active = clients.pipelines().delete_pipeline(delete.clone()).await;
    assert_refused(active, Code::FailedPrecondition, "CONFLICT");
    clients.kill("ci", run.run).await;
    clients.pipelines().delete_pipeline(delete.clone()).await.unwrap();
    assert_refused(
        clients.pipelines().get_pipeline(named("ci")).await,
        Code::NotFound,
        "PIPELINE_NOT_FOUND",
    );
    assert_refused(
        clients.pipelines().delete_pipeline(delete).await,
        Code::NotFound,
        "PIPELINE_NOT_FOUND",
    );

    let disable = v1::DisablePipelineRequest { namespace: "default".into(), name: "ci".into() };
    assert_refused(
        clients.pipelines().disable_pipeline(disable).await,
        Code::NotFound,
        "PIPELINE_NOT_FOUND",
    );
}

async fn bad_specs_are_refused_by_field_and_rule(server: TestServer) {
    let clients = server.anybody();
    let mut no_spec =
        v1::RegisterPipelineRequest { namespace: "default".into(), ..Default::default() };
    assert_invalid(
        clients.pipelines().register_pipeline(no_spec.clone()).await,
        &["spec", "is required"],
    );
    no_spec.spec = Some(pipeline("empty", Vec::new()));
    assert_invalid(
        clients.pipelines().register_pipeline(no_spec).await,
        &["spec.tasks", "at least one task"],
    );

    let cycle =
        pipeline("ci", vec![after(shell("a", "true"), &["b"]), after(shell("b", "true"), &["a"])]);
    assert_invalid(clients.try_register(cycle).await, &["spec.tasks[a].depends_on", "a -> b -> a"]);
    let orphan = pipeline("ci", vec![after(shell("a", "true"), &["ghost"])]);
    assert_invalid(
        clients.try_register(orphan).await,
        &["spec.tasks[a].depends_on[0].task", "ghost", "names no task"],
    );

    let spaces = pipeline("my pipeline", vec![shell("a b", "true"), shell("..", "true")]);
    let words = [
        "spec.name",
        "my pipeline",
        "spec.tasks[0].id",
        "a b",
        "spec.tasks[1].id",
        "..",
        "lower-case letters",
    ];

    assert_invalid(clients.try_register(spaces).await, &words);

    let mut huge = ci();
    huge.tasks[0].variables.insert("BIG".into(), "x".repeat(3 * 1024 * 1024));
    let words = ["spec.tasks[build].variables[BIG]", "3145728 bytes", "at most 65536 bytes"];
    assert_invalid(clients.try_register(huge).await, &words);

    let mut nothing = ci();
    nothing.tasks[0].kind = None;
    nothing.tasks[1].timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    nothing.overlap = 99;

    let words = [
        "spec.tasks[0].kind",
        "`custom` and `common`",
        "spec.tasks[1].timeout",
        "not negative",
        "spec.overlap",
    ];

    assert_invalid(clients.try_register(nothing).await, &words);

    let mut later = ci();
    let common = v1::CommonTaskUse { name: "checkout".into(), ..Default::default() };
    later.tasks[0].kind = Some(v1::task_spec::Kind::Common(common));
    later.subscriptions.push(v1::TriggerSubscription {
        trigger: "cron".into(),
        name: "nightly".into(),
        ..Default::default()
    });

    let words = [
        "spec.tasks[build].common",
        "checkout",
        "not available in this version",
        "spec.subscriptions[0]",
        "cron",
    ];

    assert_invalid(clients.try_register(later).await, &words);

    assert_refused(
        clients.pipelines().get_pipeline(named("ci")).await,
        Code::NotFound,
        "PIPELINE_NOT_FOUND",
    );
}

async fn names_are_checked_everywhere(server: TestServer) {
    let clients = server.anybody();
    let both = v1::GetPipelineRequest { namespace: "No Such".into(), name: "../etc".into() };
    assert_invalid(
        clients.pipelines().get_pipeline(both).await,
        &["namespace", "No Such", "name", "../etc"],
    );

    let unknown = v1::RegisterPipelineRequest {
        namespace: "nowhere".into(),
        spec: Some(ci()),
        ..Default::default()
    };

    let (code, reason, text) = refusal(clients.pipelines().register_pipeline(unknown).await);
    assert_eq!((code, reason.as_str()), (Code::NotFound, "NAMESPACE_NOT_FOUND"));
    assert!(text.contains("namespace `nowhere` does not exist"), "{text}");
    let list = v1::ListPipelinesRequest { namespace: "nowhere".into(), ..Default::default() };
    assert_refused(
        clients.pipelines().list_pipelines(list).await,
        Code::NotFound,
        "NAMESPACE_NOT_FOUND",
    );
}
