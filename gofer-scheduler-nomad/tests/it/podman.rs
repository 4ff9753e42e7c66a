//! Tasks in podman's containers. The contract holds but for the cases below, which are named with
//! what does not hold in `docs/src/nomad.md`.

use crate::isolated::Isolated;
use crate::partly::{FIRST, UNASKED, held, not_held};

const TEST: &str = "conformance of the nomad scheduler with podman";
/// It copies the input to podman, and keeps its side open when the input has ended.
const INPUT: &str = "the driver tells no command that its input has ended";

held! {
    Isolated::podman(TEST);
    lifecycle {
        check_says_what_was_found_in_one_line
        capabilities_are_constant
        an_unknown_execution_is_not_found
        the_exit_code_is_reported
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
    isolation {
        an_execution_cannot_reach_another_namespaces
    }
    exec {
        a_command_has_the_environment_of_the_execution
        a_command_runs_in_the_working_directory_of_the_execution
        what_cannot_be_is_refused
        a_dropped_session_ends_its_processes
        a_command_that_ends_leaves_no_process
        the_end_of_the_execution_ends_its_sessions
        a_terminal_is_one
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

not_held! {
    "podman";
    FIRST: death_by_signal_is_reported;
    INPUT:
        a_command_runs_beside_the_execution
        input_and_output_survive_unread_queues;
    UNASKED: without_the_capability_exec_is_unsupported;
}
