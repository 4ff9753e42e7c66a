//! Logs that rotate, come late, and go away.

use std::time::Duration;

use futures::StreamExt;
use gofer_conformance::scheduler::Workloads;
use gofer_conformance::within;
use gofer_core::scheduler::{ExecutionSpec, LogCursor, LogStream, Scheduler};

use crate::agent::Agent;
use crate::fake::FakeNomad;
use crate::support::{Setup, exited, id, script};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn case_11_a_tail_that_lags_behind_the_end_is_read() {
    let setup = Setup::fake().await;
    setup.fake_agent().faults(|faults| faults.late_logs = Some(Duration::from_millis(200)));
    let task = id("task");
    setup.start(&task, &script("echo first; echo last", [])).await;
    assert_eq!(setup.stdout(&task, true).await, b"first\nlast\n");
    assert_eq!(setup.ended(&task).await, exited(0));
}

/// Bytes of each line that `numbered` prints.
const LINE: usize = 64;

/// Prints lines that say which they are, `mib` MiB of them.
fn numbered(mib: usize) -> ExecutionSpec {
    script("exec seq -f %063.0f 1 \"$1\"", [&(mib * MIB / LINE).to_string()])
}

/// Nomad's files end where a line does, so nobody knows to the byte how much was in those that are
/// gone.
async fn rotates(setup: &Setup) {
    let task = id("task");
    assert_eq!(setup.run(&task, &numbered(5)).await, exited(0));
    let mut stream = setup.scheduler().logs(&task, LogCursor::default(), true).await.expect("logs");
    let (mut end, mut bytes) = (0, Vec::new());

    while let Some(chunk) = within("the log ends", stream.next()).await {
        let chunk = chunk.expect("a chunk");
        assert_eq!(chunk.stream, LogStream::Stdout);
        assert!(
            if end == 0 { chunk.offset > 0 } else { chunk.offset == end },
            "{} after {end}",
            chunk.offset
        );
        end = chunk.offset + chunk.data.len() as u64;
        bytes.extend_from_slice(&chunk.data);
    }

    assert!(
        (MIB / 2..=2 * MIB).contains(&bytes.len()),
        "two files of 1 MiB are kept, not {} bytes",
        bytes.len()
    );

    let text = String::from_utf8(bytes).expect("text");
    let numbers: Vec<usize> =
        text.lines().skip(1).map(|line| line.parse().expect("a number")).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "lines are missing between others"
    );
    assert_eq!(numbers.last(), Some(&(5 * MIB / LINE)), "the newest is kept");
}

fn small_files(config: &mut gofer_scheduler_nomad::NomadConfig) {
    (config.log.max_files, config.log.max_file_size_mb) = (2, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_11_what_rotated_away_is_a_gap_and_not_a_shift() {
    rotates(&Setup::on_fake(FakeNomad::start().await, small_files).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_11_what_rotated_away_is_a_gap_and_not_a_shift_on_a_real_agent() {
    let Some(agent) = Agent::find("case_11 on a real agent") else { return };
    rotates(&Setup::real(&agent, small_files).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_11_what_is_larger_than_one_file_is_read_whole() {
    let setup =
        Setup::on_fake(FakeNomad::start().await, |config| config.log.max_file_size_mb = 1).await;
    assert_eq!(setup.run(&id("task"), &numbered(3)).await, exited(0));
    assert_eq!(setup.stdout(&id("task"), true).await.len(), 3 * MIB);
    assert_eq!(setup.stdout(&id("task"), false).await.len(), 3 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_11_logs_that_were_collected_are_not_found() {
    let setup = Setup::fake().await;
    let task = id("task");
    assert_eq!(setup.run(&task, &setup.workloads.print(b"out", b"err")).await, exited(0));
    assert_eq!(setup.stdout(&task, true).await, b"out");
    setup.fake_agent().gc();
    let outcome = setup.scheduler().logs(&task, LogCursor::default(), true).await;
    assert_eq!(outcome.err().expect("no logs").kind, gofer_core::ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_when_connections_are_cut() {
    let setup = Setup::fake().await;
    let task = id("task");
    setup.start(&task, &setup.workloads.gated(b"before ", "gate", b"after")).await;
    let followed = setup.stdout(&task, true);
    let cuts = async {
        setup.running(&task).await;
        for _ in 0..3 {
            setup.fake_agent().cut_connections();
            setup.stdout(&task, false).await;
        }
        setup.workloads.release("gate").await;
    };
    let (followed, ()) = futures::join!(followed, cuts);
    assert_eq!(followed, b"before after");
}
