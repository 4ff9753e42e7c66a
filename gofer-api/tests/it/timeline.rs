//! Why runs wait, and where their time went.

use std::collections::BTreeMap;

use gofer_proto::v1;
use gofer_proto::v1::TimelinePhase;
use tonic::Code;

use crate::harness::{
    Clients, TestServer, after, assert_invalid, assert_refused, eventually, on_each_database,
};
use crate::harness::{pipeline, shell};

on_each_database!(a_pending_run_says_what_it_waits_for, the_time_of_a_run_is_told_without_gap,);

fn request(pipeline: &str, run: u64) -> v1::GetRunTimelineRequest {
    v1::GetRunTimelineRequest {
        namespace: "default".into(),
        pipeline: pipeline.into(),
        run,
        ..Default::default()
    }
}

async fn timeline(
    clients: &Clients,
    request: v1::GetRunTimelineRequest,
) -> v1::GetRunTimelineResponse {
    clients.runs().get_run_timeline(request).await.unwrap().into_inner()
}

async fn a_pending_run_says_what_it_waits_for(server: TestServer) {
    let clients = server.anybody();
    let spec =
        v1::PipelineSpec { parallelism: 1, ..pipeline("ci", vec![shell("wait", "sleep 600")]) };
    clients.register(spec).await;
    clients.start("ci").await;
    eventually("the first run is claimed", || async {
        let state = clients.get_run("ci", 1).await.run.unwrap().state();
        if state == v1::RunState::Running { Ok(()) } else { Err(state) }
    })
    .await;
    clients.start("ci").await;

    let why = "waiting: parallelism 1 of 1 in use by run 1";
    let reason = clients.get_run("ci", 2).await.run.unwrap().reason.unwrap();
    assert_eq!((reason.kind.as_str(), reason.message.as_str()), ("waiting", why));
    let list = v1::ListRunsRequest { namespace: "default".into(), ..Default::default() };
    let runs = clients.runs().list_runs(list).await.unwrap().into_inner().runs;
    let reasons: Vec<Option<String>> =
        runs.into_iter().map(|run| run.reason.map(|reason| reason.message)).collect();

    assert_eq!(reasons, [Some(why.to_owned()), None]);
    let spans = timeline(&clients, request("ci", 2)).await.spans;
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(
        (span.phase(), span.ended_at, span.why.as_str()),
        (TimelinePhase::Queued, None, why)
    );
    clients.kill("ci", 1).await;
    eventually("the second run is claimed", || async {
        let run = clients.get_run("ci", 2).await.run.unwrap();
        if run.state() == v1::RunState::Running { Ok(()) } else { Err(run) }
    })
    .await;

    let first = timeline(&clients, request("ci", 2)).await.spans.remove(0);
    assert_eq!(first.why, "waited for a place of its pipeline's parallelism, until run 1 ended");
    clients.kill("ci", 2).await;
}

async fn the_time_of_a_run_is_told_without_gap(server: TestServer) {
    let clients = server.anybody();
    let mut flaky = after(shell("b", "echo b; test $GOFER_ATTEMPT = 2"), &["a"]);
    flaky.retries = Some(v1::RetryPolicy { attempts: 1, ..Default::default() });
    clients
        .register(pipeline(
            "ci",
            vec![shell("a", "echo a"), flaky, after(shell("c", "true"), &["b"])],
        ))
        .await;
    clients.start("ci").await;

    let run = clients.finished("ci", 1).await.run.unwrap();
    assert_eq!(run.status(), v1::RunStatus::Successful);
    let whole = eventually("everything is archived", || async {
        let whole = timeline(&clients, request("ci", 1)).await;
        if whole.spans.iter().all(|span| span.ended_at.is_some()) { Ok(whole) } else { Err(whole) }
    })
    .await;
    let mut lines: BTreeMap<&str, Vec<&v1::TimelineSpan>> = BTreeMap::new();

    for span in &whole.spans {
        lines.entry(&span.task).or_default().push(span);
    }

    assert_eq!(lines.keys().copied().collect::<Vec<_>>(), ["", "a", "b", "c"]);
    for spans in lines.values() {
        assert!(spans.windows(2).all(|pair| pair[0].ended_at == pair[1].began_at), "{spans:#?}");
    }

    assert_eq!(lines[""][0].began_at, run.created_at);
    let phases: Vec<TimelinePhase> = lines["b"].iter().map(|span| span.phase()).collect();
    for phase in
        [TimelinePhase::WaitingForParents, TimelinePhase::Running, TimelinePhase::RetryBackoff]
    {
        assert!(phases.contains(&phase), "{phases:?}");
    }

    assert_eq!(phases.last(), Some(&TimelinePhase::Archiving));
    assert_eq!(lines["b"][0].why, "task `a` was the last parent to end, successfully");

    let mut paged = Vec::new();
    let mut page = v1::GetRunTimelineRequest { page_size: 1, ..request("ci", 1) };
    for _ in 0..3 {
        let answer = timeline(&clients, page.clone()).await;
        paged.extend(answer.spans);
        page.page_token = answer.next_page_token;
    }

    assert_eq!((paged, page.page_token.as_str()), (whole.spans, ""));

    let bad = v1::GetRunTimelineRequest { page_size: 501, ..request("ci", 1) };
    assert_invalid(clients.runs().get_run_timeline(bad).await, &["page_size", "501"]);
    let unknown = clients.runs().get_run_timeline(request("ci", 77)).await;
    assert_refused(unknown, Code::NotFound, "RUN_NOT_FOUND");
}
