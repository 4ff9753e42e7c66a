//! Tasks in podman's containers. The contract holds but for the cases below, which are named with
//! what does not hold in `docs/src/nomad.md`.

use crate::isolated::Isolated;
use crate::partly::{FIRST, UNASKED};

const TEST: &str = "conformance of the nomad scheduler with podman";
/// It copies the input to podman, and keeps its side open when the input has ended.
const INPUT: &str = "the driver tells no command that its input has ended";

/// What of the contract it cannot keep, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("death_by_signal_is_reported", FIRST),
    ("a_command_runs_beside_the_execution", INPUT),
    ("input_and_output_survive_unread_queues", INPUT),
    ("without_the_capability_exec_is_unsupported", UNASKED),
];

async fn harness() -> Option<Isolated> {
    Isolated::podman(TEST).await
}

gofer_conformance::scheduler_conformance!(optional harness, except EXCEPTIONS);
