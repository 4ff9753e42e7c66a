//! Runs: starting, following, logs, cancelling, repeating, and what bad requests hear.

use gofer_proto::v1;
use gofer_proto::v1::run_update::Subject;
use gofer_proto::v1::task_spec::Kind;
use tonic::Code;

use crate::harness::{
    Clients, TestServer, after, assert_invalid, assert_refused, eventually, on_each_database,
    pipeline, shell,
};

on_each_database!(
    a_run_goes_from_start_to_end,
    a_follower_sees_every_task_end_and_the_run_last,
    logs_are_read_whole_from_a_position_and_followed,
    a_cancelled_run_ends_and_its_task_is_killed,
    one_task_is_cancelled_by_itself,
    a_complete_run_is_repeated_whole_or_in_part,
    the_same_idempotency_key_starts_one_run,
    lists_are_filtered_and_paged,
    bad_requests_are_refused,
);

fn start(pipeline: &str) -> v1::StartRunRequest {
    v1::StartRunRequest {
        namespace: "default".into(),
        pipeline: pipeline.into(),
        ..Default::default()
    }
}

fn key(pipeline: &str, run: u64) -> v1::FollowRunRequest {
    v1::FollowRunRequest { namespace: "default".into(), pipeline: pipeline.into(), run }
}

fn task(pipeline: &str, run: u64, task: &str) -> v1::GetTaskRunRequest {
    v1::GetTaskRunRequest {
        namespace: "default".into(),
        pipeline: pipeline.into(),
        run,
        task: task.into(),
    }
}

fn logs(pipeline: &str, run: u64, task: &str) -> v1::StreamLogsRequest {
    v1::StreamLogsRequest {
        namespace: "default".into(),
        pipeline: pipeline.into(),
        run,
        task: task.into(),
        ..Default::default()
    }
}

async fn a_run_goes_from_start_to_end(server: TestServer) {
    let clients = server.anybody();
    let mut spec = pipeline(
        "ci",
        vec![shell("build", "test \"$WHO\" = me"), after(shell("test", "exit 3"), &["build"])],
    );
    spec.tasks.push(after(shell("never", "true"), &["test"]));
    clients.register(spec).await;

    let mut request = start("ci");
    request.variables.insert("WHO".into(), "me".into());
    let run = clients.runs().start_run(request).await.unwrap().into_inner().run.unwrap();
    assert_eq!((run.run, run.version), (1, 1));

    let initiator = run.initiator.unwrap();
    assert_eq!((initiator.kind(), initiator.name.as_str()), (v1::InitiatorKind::Token, "dev"));

    let done = clients.finished("ci", 1).await;
    let run = done.run.unwrap();
    assert_eq!(run.status(), v1::RunStatus::Failed);
    assert_eq!(run.reason.unwrap().kind, "tasks_failed");
    assert_eq!(run.variables["WHO"], "me");

    let states: Vec<_> =
        done.task_runs.iter().map(|task| (task.task.as_str(), task.status())).collect();
    let expected = [
        ("build", v1::TaskRunStatus::Successful),
        ("never", v1::TaskRunStatus::Skipped),
        ("test", v1::TaskRunStatus::Failed),
    ];

    assert_eq!(states, expected);
    let failed = clients
        .task_runs()
        .get_task_run(task("ci", 1, "test"))
        .await
        .unwrap()
        .into_inner()
        .task_run
        .unwrap();

    assert_eq!(
        (failed.exit_code, failed.attempts.len(), failed.attempts[0].exit_code),
        (Some(3), 1, Some(3))
    );
    assert_eq!(failed.depends_on[0].task, "build");
}

async fn a_follower_sees_every_task_end_and_the_run_last(server: TestServer) {
    let clients = server.anybody();
    let tasks = vec![
        shell("a", "true"),
        after(shell("b", "true"), &["a"]),
        after(shell("c", "true"), &["b"]),
    ];

    clients.register(pipeline("ci", tasks)).await;
    clients.start("ci").await;
    let mut updates = clients.runs().follow_run(key("ci", 1)).await.unwrap().into_inner();
    let mut ended = Vec::new();
    let mut last = None;

    while let Some(response) = updates.message().await.unwrap() {
        match response.update.and_then(|update| update.subject) {
            Some(Subject::TaskRun(task)) if task.state() == v1::TaskRunState::Complete => {
                ended.push(task.task)
            }
            Some(Subject::Run(run)) => last = Some(run),
            _ => {}
        }
    }

    assert_eq!(ended, ["a", "b", "c"]);
    assert_eq!(last.unwrap().status(), v1::RunStatus::Successful);

    // Of a complete run there is everything at once, and the end.
    let mut again = clients.runs().follow_run(key("ci", 1)).await.unwrap().into_inner();
    let mut count = 0;
    while again.message().await.unwrap().is_some() {
        count += 1;
    }

    assert_eq!(count, 4);
}

fn with_separate_output(mut task: v1::TaskSpec) -> v1::TaskSpec {
    if let Some(Kind::Custom(custom)) = &mut task.kind {
        custom.separate_output = true;
    }
    task
}

async fn log_of(clients: &Clients, request: v1::StreamLogsRequest) -> (String, String) {
    let mut stream = clients.task_runs().stream_logs(request).await.unwrap().into_inner();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(response) = stream.message().await.unwrap() {
        assert_eq!(response.attempt, 1);
        let chunk = response.chunk.unwrap();
        let output =
            if chunk.stream() == v1::LogStream::Stdout { &mut stdout } else { &mut stderr };
        output.extend_from_slice(&chunk.data);
    }
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

async fn logs_are_read_whole_from_a_position_and_followed(server: TestServer) {
    let clients = server.anybody();
    let line = "echo one; echo two >&2; while ! test -e \"$GO\"; do sleep 0.01; done; echo three";
    clients.register(pipeline("ci", vec![with_separate_output(shell("talk", line))])).await;
    let go = server.dir().join("go");
    let mut request = start("ci");
    request.variables.insert("GO".into(), go.display().to_string());
    clients.runs().start_run(request).await.unwrap();

    let follow = v1::StreamLogsRequest { follow: true, ..logs("ci", 1, "talk") };
    let mut live = clients.task_runs().stream_logs(follow.clone()).await.unwrap().into_inner();
    let first = live.message().await.unwrap().unwrap();
    assert!(!first.chunk.unwrap().data.is_empty());
    std::fs::write(&go, "").unwrap();
    while live.message().await.unwrap().is_some() {}

    let whole = ("one\nthree\n".to_owned(), "two\n".to_owned());
    assert_eq!(log_of(&clients, follow).await, whole);

    clients.finished("ci", 1).await;
    assert_eq!(log_of(&clients, logs("ci", 1, "talk")).await, whole);
    let cursor = Some(v1::LogCursor { stdout_offset: 4, stderr_offset: 4 });
    let rest = v1::StreamLogsRequest { cursor, ..logs("ci", 1, "talk") };
    assert_eq!(log_of(&clients, rest).await, ("three\n".to_owned(), String::new()));

    let missing = clients.task_runs().stream_logs(logs("ci", 1, "ghost")).await.map(|_| ());
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    let missing = v1::StreamLogsRequest { attempt: 7, ..logs("ci", 1, "talk") };
    let missing = clients.task_runs().stream_logs(missing).await.map(|_| ());
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
}

async fn running(clients: &Clients, pipeline: &str, run: u64, name: &str) {
    eventually("the task runs", || async {
        let found =
            clients.task_runs().get_task_run(task(pipeline, run, name)).await.unwrap().into_inner();
        let state = found.task_run.unwrap().state();
        if state == v1::TaskRunState::Running { Ok(()) } else { Err(state) }
    })
    .await;
}

async fn a_cancelled_run_ends_and_its_task_is_killed(server: TestServer) {
    let clients = server.anybody();
    clients
        .register(pipeline("ci", vec![shell("wait", "trap '' TERM; sleep 600 & wait; wait")]))
        .await;
    clients.start("ci").await;
    running(&clients, "ci", 1, "wait").await;

    let mut request = v1::CancelRunRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        force: false,
        reason: "enough".into(),
    };

    let run = clients.runs().cancel_run(request.clone()).await.unwrap().into_inner().run.unwrap();
    assert!(run.cancel_requested);
    request.force = true;
    clients.runs().cancel_run(request.clone()).await.unwrap();

    let done = clients.finished("ci", 1).await.run.unwrap();
    assert_eq!(done.status(), v1::RunStatus::Cancelled);

    // Once more is no error.
    clients.runs().cancel_run(request.clone()).await.unwrap();
    request.reason = "x".repeat(2_000);
    assert_invalid(
        clients.runs().cancel_run(request).await,
        &["reason", "2000 bytes", "at most 1024"],
    );
}

async fn one_task_is_cancelled_by_itself(server: TestServer) {
    let clients = server.anybody();
    clients
        .register(pipeline("ci", vec![shell("wait", "sleep 600"), shell("other", "true")]))
        .await;
    clients.start("ci").await;
    running(&clients, "ci", 1, "wait").await;

    let request = v1::CancelTaskRunRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        task: "wait".into(),
        force: true,
        reason: String::new(),
    };

    clients.task_runs().cancel_task_run(request.clone()).await.unwrap();
    let done = clients.finished("ci", 1).await;
    let states: Vec<_> =
        done.task_runs.iter().map(|task| (task.task.as_str(), task.status())).collect();
    assert_eq!(
        states,
        [("other", v1::TaskRunStatus::Successful), ("wait", v1::TaskRunStatus::Cancelled)]
    );

    let ghost = v1::CancelTaskRunRequest { task: "ghost".into(), ..request };
    assert_eq!(
        clients.task_runs().cancel_task_run(ghost).await.unwrap_err().code(),
        Code::NotFound
    );
}

async fn a_complete_run_is_repeated_whole_or_in_part(server: TestServer) {
    let clients = server.anybody();
    let marker = server.dir().join("marker").display().to_string();
    let flaky = format!("test -e {marker} || {{ touch {marker}; exit 1; }}");
    let tasks = vec![shell("once", "true"), after(shell("flaky", &flaky), &["once"])];
    clients.register(pipeline("ci", tasks)).await;
    clients.start("ci").await;
    assert_eq!(clients.finished("ci", 1).await.run.unwrap().status(), v1::RunStatus::Failed);

    let retry = |run, from_failed| v1::RetryRunRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run,
        from_failed,
    };

    let run = clients.runs().retry_run(retry(1, true)).await.unwrap().into_inner().run.unwrap();
    assert_eq!(
        (run.run, run.retry_of, run.initiator.unwrap().kind()),
        (2, 1, v1::InitiatorKind::Retry)
    );

    let done = clients.finished("ci", 2).await;
    assert_eq!(done.run.unwrap().status(), v1::RunStatus::Successful);
    let reused = done.task_runs.iter().find(|task| task.task == "once").unwrap();
    assert_eq!(reused.reason.as_ref().unwrap().kind, "reused");

    let whole = clients.runs().retry_run(retry(2, false)).await.unwrap().into_inner().run.unwrap();
    assert_eq!((whole.run, whole.retry_of), (3, 2));
    clients.finished("ci", 3).await;

    clients.register(pipeline("slow", vec![shell("wait", "sleep 600")])).await;
    clients.start("slow").await;
    let early = v1::RetryRunRequest { pipeline: "slow".into(), ..retry(1, false) };
    assert_refused(
        clients.runs().retry_run(early).await,
        Code::FailedPrecondition,
        "RUN_NOT_COMPLETE",
    );
    clients.kill("slow", 1).await;
}

async fn the_same_idempotency_key_starts_one_run(server: TestServer) {
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    let request = v1::StartRunRequest { idempotency_key: "night of 24".into(), ..start("ci") };
    let calls = (0..6).map(|_| {
        let (mut runs, request) = (clients.runs(), request.clone());
        async move { runs.start_run(request).await.unwrap().into_inner().run.unwrap().run }
    });
    assert_eq!(futures::future::join_all(calls).await, [1; 6]);
    clients.finished("ci", 1).await;
}

async fn lists_are_filtered_and_paged(server: TestServer) {
    let clients = server.anybody();
    clients.register(pipeline("ok", vec![shell("t", "true")])).await;
    clients.register(pipeline("bad", vec![shell("t", "false")])).await;

    for name in ["ok", "bad", "ok", "bad", "ok"] {
        let run = clients.start(name).await;
        clients.finished(name, run.run).await;
    }

    let list = |request: v1::ListRunsRequest| {
        let mut runs = clients.runs();
        async move {
            let request = v1::ListRunsRequest { namespace: "default".into(), ..request };
            let page = runs.list_runs(request).await?.into_inner();
            let names = page
                .runs
                .iter()
                .map(|run| format!("{}/{}", run.pipeline, run.run))
                .collect::<Vec<_>>();
            Ok::<_, tonic::Status>((names, page.next_page_token))
        }
    };

    let all = list(v1::ListRunsRequest::default()).await.unwrap().0;
    assert_eq!(all, ["ok/3", "bad/2", "ok/2", "bad/1", "ok/1"]);
    let failed =
        v1::ListRunsRequest { statuses: vec![v1::RunStatus::Failed.into()], ..Default::default() };
    assert_eq!(list(failed).await.unwrap().0, ["bad/2", "bad/1"]);

    let page = v1::ListRunsRequest { pipeline: "ok".into(), page_size: 2, ..Default::default() };
    let (first, page_token) = list(page.clone()).await.unwrap();
    let (second, end) = list(v1::ListRunsRequest { page_token, ..page }).await.unwrap();
    assert_eq!(
        (first, second, end),
        (vec!["ok/3".into(), "ok/2".into()], vec!["ok/1".into()], String::new())
    );

    let bad = v1::ListRunsRequest { states: vec![99], ..Default::default() };
    assert_invalid(list(bad).await, &["states", "99"]);
    let unknown = v1::ListRunsRequest { pipeline: "ghost".into(), ..Default::default() };
    assert_refused(list(unknown).await, Code::NotFound, "PIPELINE_NOT_FOUND");
}

async fn bad_requests_are_refused(server: TestServer) {
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    assert_refused(
        clients.runs().start_run(start("ghost")).await,
        Code::NotFound,
        "PIPELINE_NOT_FOUND",
    );

    let version = v1::StartRunRequest { version: 9, ..start("ci") };
    assert_eq!(clients.runs().start_run(version).await.unwrap_err().code(), Code::NotFound);
    let mut huge = start("ci");
    huge.variables.insert("BIG".into(), "x".repeat(3 * 1024 * 1024));
    assert_invalid(
        clients.runs().start_run(huge).await,
        &["variables[BIG]", "at most 65536 bytes"],
    );

    let mut reserved = start("ci");
    reserved.variables.insert("GOFER_API_TOKEN".into(), "x".into());
    assert_invalid(
        clients.runs().start_run(reserved).await,
        &["variables[GOFER_API_TOKEN]", "set by Gofer"],
    );

    let odd = v1::StartRunRequest { idempotency_key: "ä".into(), ..start("ci") };
    assert_invalid(clients.runs().start_run(odd).await, &["idempotency_key", "ASCII"]);
    assert_refused(
        clients.runs().follow_run(key("ci", 77)).await.map(|_| ()),
        Code::NotFound,
        "RUN_NOT_FOUND",
    );
    assert_invalid(clients.runs().follow_run(key("ci", 0)).await.map(|_| ()), &["run", "from 1"]);

    let disable = v1::DisablePipelineRequest { namespace: "default".into(), name: "ci".into() };
    clients.pipelines().disable_pipeline(disable).await.unwrap();
    assert_refused(
        clients.runs().start_run(start("ci")).await,
        Code::FailedPrecondition,
        "PIPELINE_DISABLED",
    );

    let enable = v1::EnablePipelineRequest { namespace: "default".into(), name: "ci".into() };
    assert!(
        clients
            .pipelines()
            .enable_pipeline(enable)
            .await
            .unwrap()
            .into_inner()
            .pipeline
            .unwrap()
            .enabled
    );

    // A secret that is missing fails the task with its name, not the request.
    let mut spec = pipeline("needs", vec![shell("t", "true")]);
    spec.tasks[0].variables.insert("KEY".into(), "secret{{db/password}}".into());
    clients.register(spec).await;
    clients.start("needs").await;

    let reason = clients.finished("needs", 1).await.task_runs[0].reason.clone().unwrap();
    assert_eq!(reason.kind, "missing_value");
    assert!(reason.message.contains("db/password"), "{}", reason.message);
}
