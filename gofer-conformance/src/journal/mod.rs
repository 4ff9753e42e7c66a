//! What every journal does.

pub mod admission;
pub mod cancel;
pub mod claim;
pub mod commit;
mod fixture;
pub mod insert;
pub mod lead;
pub mod logs;
pub mod quota;
pub mod records;
pub mod retention;

pub use fixture::JournalFixture;

/// Emits one test per case of the journal's contract; see [the crate](crate).
#[macro_export]
macro_rules! journal_conformance {
    ($($factory:tt)+) => {
        $crate::__conformance_tests! { [$($factory)+] journal
            insert {
                run_numbers_count_up_per_pipeline
                an_inserted_run_is_pending_with_a_pending_task_run_per_task
                run_created_is_recorded_by_the_initiator
                the_latest_version_is_taken_unless_one_is_given
                an_unknown_pipeline_or_version_is_not_found
                a_disabled_pipeline_takes_no_runs
                a_run_sets_what_its_version_lists
                a_repeated_idempotency_key_returns_the_first_run
                concurrent_inserts_of_one_key_make_one_run
                concurrent_inserts_number_runs_without_gap_or_repeat
                an_abandoned_insert_takes_effect_whole_or_not_at_all
                reused_tasks_are_inserted_successful
                overlap_queue_lets_every_run_wait
                overlap_skip_completes_a_run_when_there_is_no_room
                of_concurrent_inserts_with_overlap_skip_one_has_room
                overlap_cancel_running_cancels_the_oldest
                overlap_without_parallelism_never_acts
                a_run_is_durable
                loading_an_unknown_run_is_not_found
                a_run_may_be_claimed_as_it_is_inserted
                a_claimed_run_may_begin_as_it_is_inserted
                a_run_that_has_to_wait_is_not_claimed
                a_repetition_is_not_claimed_as_it_is_inserted
                of_concurrent_inserts_no_more_are_claimed_than_may_be_held
            }
            admission {
                a_refusal_names_what_is_missing
                a_disabled_pipeline_is_refused_whatever_the_version
                a_skipped_run_says_why
                a_reused_task_names_its_run
                superseded_runs_are_asked_before_the_newer_is_created
                the_latest_version_says_how_many_may_run
                a_run_behind_one_that_is_to_be_cancelled_waits
                the_older_run_is_the_one_inserted_first
                runs_to_be_cancelled_count_for_their_namespace
            }
            claim {
                claiming_a_pending_run_starts_it
                the_oldest_runs_are_claimed_first_up_to_the_limit
                parallelism_admits_the_oldest
                pipelines_do_not_share_their_parallelism
                a_run_to_be_cancelled_is_admitted_regardless
                a_held_run_is_not_claimed_until_its_lease_runs_out
                epochs_grow
                running_runs_are_taken_over_regardless_of_parallelism
                complete_runs_are_not_claimed
                pipelines_are_claimed_fairly
                namespaces_are_claimed_fairly
                a_limit_of_held_runs_is_for_those_that_wait
                concurrent_claims_share_no_run
                renewing_prolongs_what_the_owner_holds
                renewing_never_shortens
                a_lease_that_ran_out_untaken_is_renewed
                a_lease_that_was_taken_is_not_renewed
                released_runs_are_claimed_at_once
            }
            lead {
                the_lead_is_one_owners_until_it_runs_out
                the_lead_is_prolonged_and_never_shortened
                a_released_lead_is_free_at_once
                of_concurrent_servers_one_leads
            }
            quota {
                runs_beyond_those_of_a_minute_are_refused_and_nothing_changes
                bytes_of_large_runs_beyond_those_of_a_minute_are_refused
                pending_runs_beyond_the_quota_are_refused
                a_run_that_begins_at_once_is_not_held_against_those_that_wait
                active_runs_beyond_the_quota_wait
                a_quota_is_its_own_namespaces
                of_concurrent_inserts_no_quota_is_exceeded
                of_concurrent_inserts_and_claims_no_more_are_active_than_may_be
                a_server_counts_until_its_heartbeat_runs_out
                limits_of_executions_are_told_with_the_heartbeat
            }
            retention {
                old_runs_expire_when_nothing_of_them_is_left
                runs_beyond_those_that_are_kept_expire
                a_run_that_an_unfinished_one_repeats_stays
                numbers_of_expired_runs_are_not_used_again
            }
            commit {
                a_commit_becomes_true_with_its_events
                completing_a_run_says_why_and_when
                a_commit_after_a_takeover_is_fenced
                a_commit_after_a_release_is_fenced
                a_lease_that_ran_out_untaken_still_commits
                a_commit_of_an_unknown_run_is_fenced
                another_task_state_than_expected_is_a_conflict
                another_attempt_than_expected_is_a_conflict
                a_step_of_a_task_that_is_not_in_the_table_is_a_conflict
                a_step_of_a_run_that_is_not_in_the_table_is_a_conflict
                a_retry_needs_the_next_attempt
                a_commit_is_applied_whole_or_not_at_all
                commits_of_one_call_are_judged_one_by_one
                a_repeated_commit_changes_nothing
                a_commit_never_changes_a_tasks_cancel
                concurrent_commits_of_one_step_become_true_once
                event_ids_are_gapless_and_in_commit_order
                an_abandoned_commit_takes_effect_whole_or_not_at_all
                a_commit_is_durable
            }
            cancel {
                a_wish_to_cancel_a_run_is_recorded_and_loaded
                a_wish_to_cancel_a_task_is_recorded_and_loaded
                the_first_wish_stays_but_force_is_added
                what_is_complete_is_left_alone
                cancelling_what_is_unknown_is_not_found
                a_pending_run_takes_a_wish
            }
            logs {
                live_logs_are_those_of_finished_attempts
                live_logs_are_paged_oldest_first
                the_log_state_is_known_once_the_attempt_finished
                the_log_state_is_compared_then_set_with_its_event
                a_silent_log_is_live_until_it_is_empty
            }
            records {
                object_records_are_found_by_scope_and_key
                secret_records_are_found_by_scope_and_key
                archived_logs_expire_by_age
                objects_of_old_runs_expire
                a_replaced_object_does_not_expire_with_its_old_location
                values_that_a_run_masks_are_listed_until_its_logs_are_archived
                a_run_masks_no_more_than_it_may
            }
        }
    };
}
