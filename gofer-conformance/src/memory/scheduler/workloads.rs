//! The conformance suite's workloads as scripts of the memory scheduler.

use async_trait::async_trait;
use gofer_core::scheduler::ExecutionSpec;

use super::MemoryScheduler;
use super::script::hex;
use crate::scheduler::{Workloads, host_command};

/// The conformance suite's workloads for a [`MemoryScheduler`].
#[derive(Debug)]
pub struct MemoryWorkloads(pub MemoryScheduler);

fn script<const N: usize>(steps: [String; N]) -> ExecutionSpec {
    host_command(steps)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Workloads for MemoryWorkloads {
    fn exit(&self, code: u8) -> ExecutionSpec {
        script([format!("exit {code}")])
    }

    fn die(&self, signal: i32) -> ExecutionSpec {
        script([format!("die {signal}")])
    }

    fn command_not_found(&self) -> ExecutionSpec {
        host_command(["gofer-no-such-command"])
    }

    fn print(&self, stdout: &[u8], stderr: &[u8]) -> ExecutionSpec {
        let spec =
            script([format!("print-hex {}", hex(stdout)), format!("eprint-hex {}", hex(stderr))]);
        ExecutionSpec { separate_output: true, ..spec }
    }

    fn print_in_turn(&self, times: usize) -> ExecutionSpec {
        host_command(
            (1..=times)
                .flat_map(|turn| [format!("print out {turn}"), format!("eprint err {turn}")]),
        )
    }

    fn print_line(&self, length: usize) -> ExecutionSpec {
        script([format!("print-line {length}")])
    }

    fn print_env(&self, name: &str) -> ExecutionSpec {
        script([format!("print-env {name}")])
    }

    fn has_own_root(&self) -> bool {
        false
    }

    fn print_working_dir(&self) -> ExecutionSpec {
        host_command(["print-working-dir"])
    }

    fn until_stopped(&self) -> ExecutionSpec {
        host_command(["on-stop stopped", "print ready", "forever"])
    }

    fn ignoring_stop(&self) -> ExecutionSpec {
        host_command(["ignore-stop", "print ready", "forever"])
    }

    fn tree(&self, mark: &str) -> ExecutionSpec {
        let mut steps = vec!["print ready".to_owned()];
        steps.extend((0..10_000).flat_map(|_| [format!("mark {mark}"), "sleep-ms 5".to_owned()]));
        host_command(steps)
    }

    fn leave_a_child(&self) -> ExecutionSpec {
        host_command(["print ready"])
    }

    fn gated(&self, before: &[u8], gate: &str, after: &[u8]) -> ExecutionSpec {
        let print = |bytes| format!("print-hex {}", hex(bytes));
        script([print(before), format!("wait {gate}"), print(after)])
    }

    async fn release(&self, gate: &str) {
        self.0.release(gate);
    }

    fn mark(&self, mark: &str, code: u8) -> ExecutionSpec {
        script([format!("mark {mark}"), format!("exit {code}")])
    }

    async fn marks(&self, mark: &str) -> usize {
        self.0.marks(mark)
    }

    fn probe(&self, _: &str, _: &[String]) -> Option<ExecutionSpec> {
        None
    }
}
