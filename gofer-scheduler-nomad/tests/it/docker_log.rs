//! Tasks in docker containers whose program is no shell: their output goes through docker's log,
//! and Nomad's reader of it. The contract holds but for the cases below, which are named with what
//! does not hold in `docs/src/nomad.md`.

use crate::isolated::Isolated;
use crate::partly::{FIRST, UNASKED};

const TEST: &str = "conformance of the nomad scheduler with docker and any program";
/// Docker passes a line on when it has ended.
const UNENDED: &str = "docker holds a line back until it ends";
/// What is on the way when a container ends is lost, and docker's followers miss a last line
/// without an end.
const LAST: &str = "docker and nomad lose the last words of a container";
/// Docker replaces what is no UTF-8.
const BYTES: &str = "docker's log holds text";
/// Docker keeps two files of 2 MB, unless told otherwise.
const ROTATED: &str = "docker deletes its log before nomad has read it";
/// Of any other program nobody knows whether there is a shell beside it.
const LONG_SECRET: &str = "a secret of more than 64 KiB needs a shell, and is refused";

/// What of the contract it cannot keep, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("start_of_a_running_execution_does_nothing", UNENDED),
    ("removing_what_has_not_finished_is_invalid_and_changes_nothing", UNENDED),
    ("a_running_execution_outlives_the_server", UNENDED),
    ("an_execution_that_ends_while_the_server_is_down_is_known", UNENDED),
    ("executions_with_similar_names_do_not_mix", LAST),
    ("many_executions_run_at_once", LAST),
    ("stop_asks_before_it_kills", LAST),
    ("stdout_and_stderr_are_told_apart", LAST),
    ("both_outputs_are_one_in_the_order_of_writing", LAST),
    ("logs_are_read_from_a_position", LAST),
    ("logs_without_follow_end_with_what_there_is", LAST),
    ("followed_logs_go_on_and_end_by_themselves", LAST),
    ("every_follower_gets_everything", LAST),
    ("followed_logs_end_although_a_child_was_left_behind", LAST),
    ("each_execution_has_a_working_directory_of_its_own", LAST),
    ("a_given_working_directory_is_used", LAST),
    ("the_entrypoint_comes_before_the_command", LAST),
    ("an_execution_cannot_reach_another_namespaces", LAST),
    ("a_command_runs_beside_the_execution", LAST),
    ("a_finished_execution_is_known_after_a_restart", LAST),
    ("start_after_a_restart_does_nothing", LAST),
    ("any_bytes_survive", BYTES),
    ("a_line_of_nine_mebibytes_survives", ROTATED),
    ("death_by_signal_is_reported", FIRST),
    ("variables_arrive_unchanged", LONG_SECRET),
    ("without_the_capability_exec_is_unsupported", UNASKED),
];

async fn harness() -> Option<Isolated> {
    Isolated::docker_with_any_program(TEST).await
}

gofer_conformance::scheduler_conformance!(optional harness, except EXCEPTIONS);
