//! What executions of different namespaces are to each other.

use std::time::Duration;

use gofer_core::id::{ExecutionId, NamespaceId};
use gofer_core::scheduler::{EnvValue, ExecutionState, Scheduler};

use super::{SchedulerHarness, ended, exited, fresh_id, logs, running};
use crate::eventually;

const CANARY: &str = "canary-4be1f7";

/// Leaves the canary in its environment and its directory, and says where both are.
const VICTIM: &str =
    r#"echo "$CANARY" > mine; mkdir inner; echo "$$ $PWD"; while [ -f mine ]; do sleep 0.05; done"#;

/// Gets the victim's process and directory and the server's process, and prints what it gets at.
/// Where it has its own process numbers, one of them may be its own.
const ATTACK: &str = r#"
tr '\0' '\n' < "/proc/$1/environ" | grep canary
cat "$2/mine" && echo "reads its files"
ls "$2" && echo "lists its directory"
rm "$2/mine" && echo "deletes its files"
echo x > "$2/new" && echo "writes into its directory"
ls "/proc/$1/fd" "/proc/$1/cwd/" && echo "sees its descriptors"
cat "/proc/$3/environ" && echo "reads the environment of the server"
ls "/proc/$3/fd" && echo "sees the descriptors of the server"
[ "$1" = $$ ] || kill -9 "$1" && [ "$1" != $$ ] && echo "kills it"
[ "$3" = $$ ] || kill -0 "$3" && [ "$3" != $$ ] && echo "signals the server"
echo "done"
"#;

/// Where namespaces are isolated, an execution of one can neither read the environment, the
/// directory or the memory of another's, nor the server's, and cannot signal either.
pub async fn an_execution_cannot_reach_another_namespaces(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if !scheduler.capabilities().isolates_namespaces {
        return;
    }

    let Some(mut victim) = harness.workloads().probe(VICTIM, &[]) else { return };
    victim.env.insert("CANARY".to_owned(), EnvValue::Secret(CANARY.into()));
    let red = in_namespace("red");
    scheduler.start(&red, &victim).await.expect("start");
    running(&*scheduler, &red).await;

    let said = eventually("the victim says where it is", async || {
        let said = String::from_utf8(logs(&*scheduler, &red).await.stdout).expect("text");
        if said.ends_with('\n') { Ok(said) } else { Err(said) }
    })
    .await;
    let (pid, dir) = said.trim_end().split_once(' ').expect("two words");

    let attack = [pid.to_owned(), dir.to_owned(), std::process::id().to_string()];
    let attack = harness.workloads().probe(ATTACK, &attack).expect("as the victim");
    let blue = in_namespace("blue");
    scheduler.start(&blue, &attack).await.expect("start");
    assert_eq!(ended(&*scheduler, &blue).await, exited(0));

    let got = String::from_utf8_lossy(&logs(&*scheduler, &blue).await.stdout).into_owned();
    assert_eq!(got, "done\n");
    assert_eq!(scheduler.state(&red).await.expect("state").state, ExecutionState::Running);

    scheduler.stop(&red, Duration::ZERO).await.expect("stop");
    assert_eq!(ended(&*scheduler, &red).await, ExecutionState::Stopped);
    remove(&*scheduler, [&red, &blue]).await;
}

/// What ran as somebody else can be removed.
async fn remove(scheduler: &dyn Scheduler, ids: [&ExecutionId; 2]) {
    for id in ids {
        scheduler.remove(id).await.expect("remove");
        assert_eq!(scheduler.state(id).await.expect("state").state, ExecutionState::NotFound);
    }
}

fn in_namespace(name: &str) -> ExecutionId {
    let mut id = fresh_id("task");
    id.run.namespace = NamespaceId::new(name).expect("a valid namespace");
    id
}
