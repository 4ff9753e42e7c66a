//! Failover: a real cluster of three servers and two clients, whose agents are killed in the middle
//! of it.

mod agents;

use std::time::Duration;

use futures::StreamExt;
use gofer_conformance::scheduler::Workloads;
use gofer_conformance::{eventually, within};
use gofer_core::ExecutionId;
use gofer_core::scheduler::{EnvValue, ExecutionState, LogCursor, Scheduler, WatchEvent};

use crate::agent::Agent;
use crate::support::{Setup, exited, id, script};
use agents::Cluster;

async fn setup(cluster: &Cluster, node_lost_after: Duration) -> Setup {
    let agent = Agent::at(&cluster.addresses()[0], "");
    Setup::real(&agent, |config| {
        config.addresses = cluster.addresses();
        config.node_lost_after = node_lost_after;
    })
    .await
}

/// The node an execution is on, and its allocation's client status.
async fn place(cluster: &Cluster, setup: &Setup, task: &ExecutionId) -> (String, String) {
    let allocs = allocations(cluster, setup, task).await;
    let first = allocs.first().expect("an allocation");
    let text = |field: &str| first[field].as_str().expect("text").to_owned();
    (text("NodeName"), text("ClientStatus"))
}

/// Oldest first.
async fn allocations(
    cluster: &Cluster,
    setup: &Setup,
    task: &ExecutionId,
) -> Vec<serde_json::Value> {
    let agent = cluster.agent().await;
    let jobs = agent.get(&format!("/v1/jobs?prefix={}&meta=true", setup.config.job_prefix)).await;
    let jobs = jobs.as_array().expect("a list").clone();
    let job = jobs
        .into_iter()
        .find(|job| job["Meta"]["gofer_execution"] == task.to_string())
        .expect("its job");
    let list =
        agent.get(&format!("/v1/job/{}/allocations", job["ID"].as_str().expect("an ID"))).await;
    let mut list = list.as_array().expect("a list").clone();
    list.sort_by_key(|alloc| alloc["CreateIndex"].as_u64());
    list
}

/// As the engine does it: whatever fails with a retryable error is tried again.
async fn start(setup: &Setup, task: &ExecutionId, spec: &gofer_core::scheduler::ExecutionSpec) {
    eventually(&format!("`{task}` is started"), async || {
        let started = setup.scheduler().start(task, spec).await;
        started.map_err(|error| {
            assert!(error.kind.is_retryable(), "{error}");
            error.to_string()
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_in_the_middle_of_a_chain_costs_time_and_nothing_else() {
    let Some(mut cluster) = Cluster::start("a_leader_that_is_killed").await else { return };
    let setup = setup(&cluster, Duration::from_secs(120)).await;
    let running = id("running");
    start(&setup, &running, &setup.workloads.gated(b"before ", "gate", b"after")).await;
    setup.running(&running).await;

    let mut killed = None;
    for index in 0..12 {
        if index == 3 {
            killed = Some(cluster.kill_leader().await);
        }

        if index == 9 {
            cluster.start_server(killed.expect("it was killed"));
        }

        let task = id(&format!("step-{index}"));
        start(&setup, &task, &setup.workloads.mark("step", 0)).await;
        assert_eq!(setup.ended(&task).await, exited(0), "step {index}");
    }

    setup.workloads.release("gate").await;
    assert_eq!(setup.ended(&running).await, exited(0));
    assert_eq!(setup.stdout(&running, true).await, b"before after");
    assert_eq!(setup.workloads.marks("step").await, 12, "each step ran once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watcher_is_told_of_every_end_although_the_leader_is_killed() {
    let Some(mut cluster) = Cluster::start("the_watcher_is_told").await else { return };
    let setup = setup(&cluster, Duration::from_secs(120)).await;
    let mut stream = setup.scheduler().watch().await.expect("watch");
    let ids: Vec<ExecutionId> = (0..20).map(|index| id(&format!("task-{index}"))).collect();
    let spec = setup.workloads.gated(b"", "gate", b"");

    for task in &ids {
        start(&setup, task, &spec).await;
    }

    for task in &ids {
        setup.running(task).await;
    }

    setup.workloads.release("gate").await;
    cluster.kill_leader().await;
    let mut waiting: Vec<&ExecutionId> = ids.iter().collect();

    while !waiting.is_empty() {
        let next = within(&format!("the watcher is told of {waiting:?}"), stream.next()).await;
        let WatchEvent { id, state, .. } = next.expect("the stream goes on").expect("an event");
        if state.is_final() {
            assert_eq!(state, exited(0), "`{id}`");
            waiting.retain(|waits| **waits != id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_and_comes_back_finds_its_task_again() {
    let Some(mut cluster) = Cluster::start("a_client_that_is_killed_and_comes_back").await else {
        return;
    };

    let setup = setup(&cluster, Duration::from_secs(600)).await;
    let task = id("task");
    start(&setup, &task, &setup.workloads.gated(b"before ", "gate", b"after")).await;
    setup.running(&task).await;

    let client = cluster.client(&place(&cluster, &setup, &task).await.0);
    cluster.kill_client(client);
    eventually("the node is missed", async || {
        let (_, status) = place(&cluster, &setup, &task).await;
        if status == "unknown" { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(setup.state(&task).await, ExecutionState::Running, "it may come back");
    setup.workloads.release("gate").await;
    cluster.start_client(client);
    assert_eq!(setup.ended(&task).await, exited(0));
    assert_eq!(setup.stdout(&task, true).await, b"before after");
    assert_eq!(allocations(&cluster, &setup, &task).await.len(), 1, "nothing ran twice");
}

/// A node that is there again before anybody misses it: its agent starts the task again in the same
/// allocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_power_fails_does_not_run_its_task_a_second_time() {
    let Some(mut cluster) = Cluster::start("a_node_whose_power_fails").await else { return };
    let setup = setup(&cluster, Duration::from_secs(600)).await;
    let task = id("task");
    let dir = tempfile::tempdir().expect("a directory");
    let mark = dir.path().join("mark");
    let text = "echo begin >>\"$1\"; while [ -d \"$2\" ]; do sleep 0.05; done";
    let spec =
        script(text, [&mark, &dir.path().to_owned()].map(|path| path.to_str().expect("text")));

    start(&setup, &task, &spec).await;
    eventually("it begins", async || {
        std::fs::read_to_string(&mark).map_err(|error| error.to_string())
    })
    .await;

    let client = cluster.client(&place(&cluster, &setup, &task).await.0);
    cluster.crash_client(client);
    cluster.start_client(client);
    assert_eq!(setup.ended(&task).await, ExecutionState::Lost);

    let allocs = allocations(&cluster, &setup, &task).await;
    let events = &allocs[0]["TaskStates"]["main"]["Events"];
    assert!(
        events.to_string().contains("Failed Restoring Task"),
        "nomad knows it by now: {events}"
    );
    assert_eq!(std::fs::read_to_string(&mark).expect("the mark"), "begin\n", "{events}");
    setup.scheduler().remove(&task).await.expect("remove");
}

/// Whatever is on a node is there when its agent is.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_on_a_node_whose_agent_is_away_is_read_when_it_is_back() {
    let Some(mut cluster) = Cluster::start("the_log_on_a_node_whose_agent_is_away").await else {
        return;
    };

    let setup = setup(&cluster, Duration::from_secs(600)).await;
    let task = id("task");
    start(&setup, &task, &setup.workloads.print(b"only line", b"")).await;
    assert_eq!(setup.ended(&task).await, exited(0));

    let client = cluster.client(&place(&cluster, &setup, &task).await.0);
    cluster.kill_client(client);
    let read = async || {
        let mut log = setup.scheduler().logs(&task, LogCursor::default(), false).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = log.next().await {
            bytes.extend_from_slice(&chunk?.data);
        }
        Ok::<_, gofer_core::BackendError>(bytes)
    };

    let waits = eventually("the servers miss the agent", async || match read().await {
        Ok(_) => Err("it is there".to_owned()),
        Err(error) => Ok(error),
    })
    .await;
    assert!(waits.is_retryable() && waits.message.contains("out of reach now"), "{waits}");
    cluster.start_client(client);

    let log = eventually("the log is read", async || {
        read().await.map_err(|error| {
            assert!(error.is_retryable(), "{error}");
            error.to_string()
        })
    })
    .await;
    assert_eq!(log, b"only line");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_not_on_the_nodes_disk() {
    let Some(cluster) = Cluster::start("a_secret_is_not_on_the_nodes_disk").await else { return };
    let setup = setup(&cluster, Duration::from_secs(600)).await;
    let task = id("task");
    let mut spec = setup.workloads.until_stopped();
    spec.env.insert("SECRET".to_owned(), EnvValue::Secret("canary-of-the-secret".into()));
    spec.env.insert("PLAIN".to_owned(), EnvValue::Plain("canary-of-the-rest".to_owned()));
    start(&setup, &task, &spec).await;
    setup.running(&task).await;

    let client = cluster.client(&place(&cluster, &setup, &task).await.0);
    let shows = |state: &[u8], text: &str| {
        state.windows(text.len()).any(|window| window == text.as_bytes())
    };

    let state = eventually("the client writes its task's environment", async || {
        let state = cluster.state_of_client(client);
        if shows(&state, "canary-of-the-rest") {
            Ok(state)
        } else {
            Err("it is not there".to_owned())
        }
    })
    .await;

    assert!(
        !shows(&state, "canary-of-the-secret"),
        "nomad keeps the environment that it gave the task itself"
    );
    setup.scheduler().stop(&task, Duration::ZERO).await.expect("stop");
    setup.ended(&task).await;
    assert!(!shows(&cluster.state_of_client(client), "canary-of-the-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_halted_is_lost_and_cannot_go_on_afterwards() {
    let Some(cluster) = Cluster::start("a_client_that_is_halted").await else { return };
    let setup = setup(&cluster, Duration::from_secs(3)).await;
    let task = id("task");
    let mut stream = setup.scheduler().watch().await.expect("watch");
    start(&setup, &task, &setup.workloads.tree("tree")).await;
    setup.running(&task).await;

    let client = cluster.client(&place(&cluster, &setup, &task).await.0);
    cluster.halt_client(client, true);
    let end = within("the watcher is told that it is lost", async {
        loop {
            let event = stream.next().await.expect("the stream goes on").expect("an event");
            if event.state.is_final() {
                return event.state;
            }
        }
    })
    .await;

    assert_eq!(end, ExecutionState::Lost);
    // The next attempt, on the other node.
    let second: ExecutionId = "ns/pipe/1/task/2".parse().expect("an id");
    start(&setup, &second, &setup.workloads.exit(0)).await;
    assert_eq!(setup.ended(&second).await, exited(0));
    cluster.halt_client(client, false);
    eventually("what ran there is killed when the node is back", async || {
        let (_, status) = place(&cluster, &setup, &task).await;
        if status == "complete" || status == "failed" || status == "lost" {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;

    let at_the_end = setup.workloads.marks("tree").await;
    // A second tree is the clock: while its child makes 20 marks, the first one's would have made
    // some, too.
    let clock = id("clock");
    start(&setup, &clock, &setup.workloads.tree("clock")).await;
    eventually("the clock makes 20 marks", async || {
        let marks = setup.workloads.marks("clock").await;
        if marks >= 20 { Ok(()) } else { Err(format!("{marks} marks")) }
    })
    .await;
    assert_eq!(
        setup.workloads.marks("tree").await,
        at_the_end,
        "a process outlived the node's return"
    );

    let allocs = allocations(&cluster, &setup, &task).await;
    assert_eq!(allocs.len(), 1, "Nomad placed no other");
    let path = format!("/v1/allocation/{}", allocs[0]["ID"].as_str().expect("an ID"));
    let mut whole = cluster.agent().await.get(&path).await;
    whole
        .as_object_mut()
        .expect("an allocation")
        .retain(|key, _| key.contains("State") || key.contains("Index"));
    assert_eq!(setup.state(&task).await, ExecutionState::Lost, "for good: {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_a_loss_and_the_next_attempt_runs_elsewhere() {
    let Some(cluster) = Cluster::start("a_drain_is_a_loss").await else { return };
    let setup = setup(&cluster, Duration::from_secs(120)).await;
    let task = id("task");
    start(&setup, &task, &setup.workloads.until_stopped()).await;
    setup.running(&task).await;
    let (node, _) = place(&cluster, &setup, &task).await;
    cluster.drain(&node).await;
    assert_eq!(setup.ended(&task).await, ExecutionState::Lost);
    let second: ExecutionId = "ns/pipe/1/task/2".parse().expect("an id");
    start(&setup, &second, &setup.workloads.exit(0)).await;
    assert_eq!(setup.ended(&second).await, exited(0));
    assert_ne!(place(&cluster, &setup, &second).await.0, node);
    assert_eq!(setup.state(&task).await, ExecutionState::Lost, "for good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_collection_in_the_middle_of_a_chain_touches_only_what_is_over() {
    let Some(cluster) = Cluster::start("a_forced_collection").await else { return };
    let setup = setup(&cluster, Duration::from_secs(120)).await;
    let running = id("running");
    start(&setup, &running, &setup.workloads.gated(b"before ", "gate", b"after")).await;
    setup.running(&running).await;

    let mut stream = setup.scheduler().watch().await.expect("watch");
    for index in 0..5 {
        let task = id(&format!("step-{index}"));
        start(&setup, &task, &setup.workloads.exit(index)).await;
        let end = within("the watcher is told of the end", async {
            loop {
                let event = stream.next().await.expect("the stream goes on").expect("an event");
                if event.id == task && event.state.is_final() {
                    return event.state;
                }
            }
        })
        .await;

        assert_eq!(end, exited(i32::from(index)));
        cluster.agent().await.put("/v1/system/gc", &serde_json::Value::Null).await;
        let gone = |state: &ExecutionState| {
            matches!(state, ExecutionState::NotFound | ExecutionState::Lost)
        };

        setup.becomes("it was collected", &task, gone).await;
    }

    assert_eq!(setup.state(&running).await, ExecutionState::Running);
    setup.workloads.release("gate").await;
    assert_eq!(setup.ended(&running).await, exited(0));
    assert_eq!(setup.stdout(&running, true).await, b"before after");
}
