//! What every scheduler does.

pub mod environment;
pub mod exec;
pub mod isolation;
pub mod lifecycle;
pub mod logs;
pub mod restart;
pub mod stop;
pub mod times;
pub mod watch;
mod workloads;

pub use workloads::{ShellWorkloads, Workloads, host_command};

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_core::error::BackendError;
use gofer_core::id::{Attempt, ExecutionId, NamespaceId, PipelineId, RunKey, RunNumber, TaskId};
use gofer_core::scheduler::{
    ExecutionSpec, ExecutionState, LogChunk, LogCursor, LogStream, Observation, Scheduler,
};
use gofer_core::time::Timestamp;

use super::{Harness, eventually, within};

/// The scheduler under test, and what to let it execute.
pub trait SchedulerHarness: Harness<dyn Scheduler> {
    /// What to execute.
    fn workloads(&self) -> &dyn Workloads;
}

/// Emits one test per case of the scheduler's contract; see [the crate](crate).
#[macro_export]
macro_rules! scheduler_conformance {
    ($($factory:tt)+) => {
        $crate::__conformance_tests! { [$($factory)+] scheduler
            lifecycle {
                check_says_what_was_found_in_one_line
                capabilities_are_constant
                an_unknown_execution_is_not_found
                the_exit_code_is_reported
                death_by_signal_is_reported
                a_command_that_does_not_exist_is_a_failed_execution
                an_execution_is_queued_or_running_until_it_ends
                start_of_a_running_execution_does_nothing
                start_of_a_finished_execution_does_nothing
                concurrent_starts_of_one_name_start_one
                a_task_is_never_restarted
                a_service_is_kept_alive_until_it_is_stopped
                executions_with_similar_names_do_not_mix
                many_executions_run_at_once
                a_removed_execution_is_not_found
                removing_what_is_unknown_succeeds
                removing_what_has_not_finished_is_invalid_and_changes_nothing
            }
            stop {
                stop_asks_before_it_kills
                stop_kills_after_the_grace
                stop_without_grace_kills_at_once
                stop_returns_without_waiting_for_the_end
                a_second_stop_with_a_shorter_grace_hastens
                stop_right_after_start_stops
                stop_kills_the_whole_process_tree
                stopping_what_is_finished_changes_nothing
                stopping_what_is_unknown_succeeds
            }
            times {
                an_end_has_its_own_times
                what_runs_has_begun
                what_never_ran_has_no_run_time
                a_timeout_is_held_where_the_execution_runs
                an_end_before_the_timeout_is_its_own
            }
            logs {
                stdout_and_stderr_are_told_apart
                both_outputs_are_one_in_the_order_of_writing
                any_bytes_survive
                a_line_of_nine_mebibytes_survives
                logs_are_read_from_a_position
                logs_without_follow_end_with_what_there_is
                followed_logs_go_on_and_end_by_themselves
                every_follower_gets_everything
                followed_logs_end_although_a_child_was_left_behind
                logs_of_a_stopped_execution_are_kept
                logs_of_an_execution_that_never_ran_are_empty
                logs_of_an_unknown_execution_are_not_found
            }
            watch {
                watch_tells_of_the_end_or_ends
                watch_tells_of_a_stop_or_ends
                watch_tells_of_a_failed_start_or_ends
                every_watcher_is_told
            }
            environment {
                variables_arrive_unchanged
                no_variable_of_the_server_leaks
                each_execution_has_a_working_directory_of_its_own
                a_given_working_directory_is_used
                the_entrypoint_comes_before_the_command
                no_secret_shows_in_debug
            }
            exec {
                a_command_runs_beside_the_execution
                input_and_output_survive_unread_queues
                a_command_has_the_environment_of_the_execution
                a_command_runs_in_the_working_directory_of_the_execution
                what_cannot_be_is_refused
                a_dropped_session_ends_its_processes
                a_command_that_ends_leaves_no_process
                the_end_of_the_execution_ends_its_sessions
                a_terminal_is_one
                without_the_capability_exec_is_unsupported
            }
            isolation {
                an_execution_cannot_reach_another_namespaces
            }
            restart {
                a_finished_execution_is_known_after_a_restart
                a_running_execution_outlives_the_server
                an_execution_that_ends_while_the_server_is_down_is_known
                start_after_a_restart_does_nothing
                stop_works_after_a_restart
                a_removed_execution_stays_removed_after_a_restart
                times_stay_the_same_after_a_restart
                a_timeout_is_held_over_a_restart
            }
        }
    };
}

/// A name that no execution had before, also not in an earlier run of the suite on the same
/// backend.
fn fresh_id(task: &str) -> ExecutionId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = u64::try_from(Timestamp::now().0).expect("a clock after 1970");
    let next = |last: u64| Some(now.max(last + 1));
    let last = LAST
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .expect("`next` is always `Some`");
    id("conformance", "suite", now.max(last + 1), task, 1)
}

fn id(namespace: &str, pipeline: &str, run: u64, task: &str, attempt: u32) -> ExecutionId {
    ExecutionId {
        run: RunKey {
            namespace: NamespaceId::new(namespace).expect("a valid namespace"),
            pipeline: PipelineId::new(pipeline).expect("a valid pipeline"),
            run: RunNumber(run),
        },
        task: TaskId::new(task).expect("a valid task"),
        attempt: Attempt(attempt),
    }
}

/// Starts an execution under a fresh name.
async fn start(scheduler: &dyn Scheduler, spec: &ExecutionSpec) -> ExecutionId {
    let id = fresh_id("task");
    scheduler.start(&id, spec).await.expect("start");
    id
}

/// The state now.
async fn state(scheduler: &dyn Scheduler, id: &ExecutionId) -> ExecutionState {
    scheduler.state(id).await.expect("state").state
}

/// Waits for the end.
async fn ended(scheduler: &dyn Scheduler, id: &ExecutionId) -> ExecutionState {
    eventually(&format!("`{id}` ends"), async || {
        let now = state(scheduler, id).await;
        if now.is_final() { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await
}

/// What was observed of it once it had ended.
async fn last(scheduler: &dyn Scheduler, id: &ExecutionId) -> Observation {
    ended(scheduler, id).await;
    scheduler.state(id).await.expect("state")
}

/// Waits until the execution runs and has written something.
async fn running(scheduler: &dyn Scheduler, id: &ExecutionId) {
    eventually(&format!("`{id}` runs"), async || {
        let now = state(scheduler, id).await;
        let written = if now.is_final() { Output::default() } else { logs(scheduler, id).await };
        let runs = now == ExecutionState::Running && !written.stdout.is_empty();
        if runs {
            Ok(())
        } else {
            Err(format!("{now:?}, {} bytes of stdout", written.stdout.len()))
        }
    })
    .await;
}

fn exited(code: i32) -> ExecutionState {
    ExecutionState::Exited { code, oom: false, signal: None }
}

/// What an execution wrote.
#[derive(Default, Clone, PartialEq, Eq)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |bytes: &Vec<u8>| {
            format!(
                "{} bytes {:?}",
                bytes.len(),
                Bytes::copy_from_slice(&bytes[..bytes.len().min(200)])
            )
        };
        f.debug_struct("Output")
            .field("stdout", &shown(&self.stdout))
            .field("stderr", &shown(&self.stderr))
            .finish()
    }
}

/// What the execution has written up to now.
async fn logs(scheduler: &dyn Scheduler, id: &ExecutionId) -> Output {
    logs_from(scheduler, id, LogCursor::default(), false).await
}

/// What the execution writes until its end.
async fn followed(scheduler: &dyn Scheduler, id: &ExecutionId) -> Output {
    logs_from(scheduler, id, LogCursor::default(), true).await
}

async fn logs_from(
    scheduler: &dyn Scheduler,
    id: &ExecutionId,
    from: LogCursor,
    follow: bool,
) -> Output {
    let mut stream = scheduler.logs(id, from, follow).await.expect("logs");
    let mut reading = LogReading::begin(from);
    within(&format!("the logs of `{id}` end, follow: {follow}"), async {
        while reading.next(&mut stream).await {}
    })
    .await;
    reading.output
}

/// A log being read; checks what every log must keep to.
struct LogReading {
    at: LogCursor,
    output: Output,
    /// The time of the last chunk.
    time: Option<Timestamp>,
}

impl LogReading {
    fn begin(at: LogCursor) -> Self {
        Self { at, output: Output::default(), time: None }
    }

    /// Takes the next chunk; whether there was one.
    async fn next(
        &mut self,
        stream: &mut BoxStream<'static, Result<LogChunk, BackendError>>,
    ) -> bool {
        let Some(chunk) = stream.next().await else { return false };
        let chunk = chunk.expect("a chunk of the log");
        assert!(
            (1..=64 * 1024).contains(&chunk.data.len()),
            "a chunk of {} bytes",
            chunk.data.len()
        );
        assert_eq!(
            chunk.offset,
            self.at.of(chunk.stream),
            "a gap or a repeat in {:?}",
            chunk.stream
        );
        self.at.advance(&chunk);
        assert!(
            chunk.at.is_none() || chunk.at >= self.time,
            "{:?} after {:?}: time goes back",
            chunk.at,
            self.time
        );
        assert!(chunk.at <= Some(Timestamp::now()), "read at {:?}, which is yet to come", chunk.at);
        self.time = chunk.at;

        match chunk.stream {
            LogStream::Stdout => self.output.stdout.extend_from_slice(&chunk.data),
            LogStream::Stderr => self.output.stderr.extend_from_slice(&chunk.data),
        }

        true
    }
}
