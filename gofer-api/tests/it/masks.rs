//! Values that a run masks while it runs, by its own token.

use gofer_proto::v1;
use tonic::Code;

use crate::harness::{
    Clients, TestServer, assert_invalid, assert_refused, eventually, on_each_database, pipeline,
    shell,
};
use crate::secrets::log_of;

on_each_database!(
    a_task_masks_what_it_was_given_elsewhere,
    who_masked_is_an_event_without_the_value,
    what_cannot_be_masked_is_refused_without_repeating_it,
);

/// A pipeline whose task leaves its token, prints the value, and again once it may; with the caller
/// that the task is.
async fn running(server: &TestServer, value: &str) -> Clients {
    let (token, gate) = (server.dir().join("token"), server.dir().join("gate"));
    let line = format!(
        "echo before {value}; printf %s \"$GOFER_API_TOKEN\" > {0}.new; mv {0}.new {0}; mkfifo \
         {1}; cat {1}; echo after {value}; printf %s {value} | base64",
        token.display(),
        gate.display()
    );
    let clients = server.anybody();

    clients.register(pipeline("ci", vec![shell("t", &line)])).await;
    clients.start("ci").await;
    let token =
        eventually("the task has written its token", || async { std::fs::read_to_string(&token) })
            .await;
    eventually("the task waits", || async { if gate.exists() { Ok(()) } else { Err(()) } }).await;

    server.with_token(&token)
}

/// Lets the task go on.
async fn open(server: &TestServer) {
    let gate = server.dir().join("gate");
    tokio::task::spawn_blocking(move || std::fs::write(gate, "")).await.unwrap().unwrap();
}

fn value(text: &str) -> v1::MaskValueRequest {
    v1::MaskValueRequest { value: text.into() }
}

async fn a_task_masks_what_it_was_given_elsewhere(server: TestServer) {
    let run = running(&server, "zebra-stripes").await;
    let clients = server.anybody();
    let mut followed = clients.task_runs().stream_logs(follow()).await.unwrap().into_inner();
    let first = followed.message().await.unwrap().unwrap().chunk.unwrap().data;
    assert_eq!(first, &b"before zebra-stripes\n"[..]);
    assert_eq!(
        run.secrets().mask_value(value("zebra-stripes")).await.unwrap().into_inner().warning,
        ""
    );

    open(&server).await;
    let mut rest = Vec::new();
    while let Some(response) = followed.message().await.unwrap() {
        rest.extend_from_slice(&response.chunk.unwrap().data);
    }

    assert_eq!(String::from_utf8(rest).unwrap(), "after ***\n***\n");
    clients.finished("ci", 1).await;
    eventually("the archive has it nowhere", || async {
        let request = v1::GetTaskRunRequest {
            namespace: "default".into(),
            pipeline: "ci".into(),
            run: 1,
            task: "t".into(),
        };

        let found =
            clients.task_runs().get_task_run(request).await.unwrap().into_inner().task_run.unwrap();
        let archived = found.attempts.last().unwrap().log_state() == v1::LogState::Archived;
        if archived { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(log_of(&clients, 1).await, "before ***\nafter ***\n***\n");
}

fn follow() -> v1::StreamLogsRequest {
    v1::StreamLogsRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        task: "t".into(),
        follow: true,
        ..Default::default()
    }
}

async fn who_masked_is_an_event_without_the_value(server: TestServer) {
    let run = running(&server, "CANARY-zebra").await;
    run.secrets().mask_value(value("CANARY-zebra")).await.unwrap();
    let clients = server.anybody();
    let events = clients
        .events()
        .list_events(v1::ListEventsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .events;
    let masked: Vec<_> = events
        .iter()
        .filter(|event| matches!(event.details, Some(v1::event::Details::ValueMasked(_))))
        .map(|event| (event.actor.as_str(), event.run))
        .collect();

    assert_eq!(masked, [("run:default/ci/1", 1)]);
    let shown = format!("{events:?}{:?}", value("CANARY-zebra"));
    assert!(!shown.contains("CANARY"), "{shown}");
    open(&server).await;
    clients.finished("ci", 1).await;
}

async fn what_cannot_be_masked_is_refused_without_repeating_it(server: TestServer) {
    let run = running(&server, "zebra-stripes").await;
    for (text, rule) in [
        ("", "1 byte to 64 KiB"),
        ("abc\n", "at least 4 bytes"),
        ("    \n ", "at least 4 bytes"),
        ("qqqq\0", "no NUL character"),
        (&"q".repeat(65_537), "65537 bytes"),
    ] {
        assert_invalid(run.secrets().mask_value(value(text)).await, &["value", rule]);
    }

    let told = run.secrets().mask_value(value("password")).await.unwrap().into_inner().warning;
    assert!(told.contains("common word"), "{told}");
    for number in 1..100 {
        run.secrets().mask_value(value(&format!("value-{number}"))).await.unwrap();
    }

    assert_refused(
        run.secrets().mask_value(value("value-100")).await,
        Code::ResourceExhausted,
        "TOO_MANY_MASKS",
    );
    run.secrets().mask_value(value("value-99")).await.unwrap();

    let stranger = server.anybody().secrets().mask_value(value("value-1")).await;
    assert_refused(stranger, Code::PermissionDenied, "FORBIDDEN");
    open(&server).await;
    server.anybody().finished("ci", 1).await;
    assert!(run.secrets().mask_value(value("late")).await.is_err(), "the run is over");
}
