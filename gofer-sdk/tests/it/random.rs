//! Random pipelines: every field and every variant occurs; whether the rules hold is not asked.

use std::collections::BTreeMap;
use std::time::Duration;

use gofer_core::id::{PipelineId, TaskId};
use gofer_core::pipeline::{
    CommonTask, Condition, CustomTask, Dependency, Overlap, PipelineSpec, RegistryAuth, Resources,
    RetryOn, RetryPolicy, RunVariable, Subscription, TaskKind, TaskSpec,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) fn pipeline() -> impl Strategy<Value = PipelineSpec> {
    let overlap =
        prop_oneof![Just(Overlap::Queue), Just(Overlap::Skip), Just(Overlap::CancelRunning)];
    (
        (id(), any::<String>(), vec(task(), 0..6), variables()),
        (
            option::of(1..=u32::MAX),
            overlap,
            vec(subscription(), 0..3),
            any::<String>(),
            vec(run_variable(), 0..3),
        ),
    )
        .prop_map(
            |(
                (name, description, tasks, variables),
                (parallelism, overlap, subscriptions, sdk, run_variables),
            )| {
                PipelineSpec {
                    name: PipelineId::new(name).unwrap(),
                    description,
                    tasks,
                    variables,
                    run_variables,
                    parallelism,
                    overlap,
                    subscriptions,
                    sdk,
                }
            },
        )
}

fn id() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?"
}

fn variables() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(any::<String>(), any::<String>(), 0..4)
}

fn run_variable() -> impl Strategy<Value = RunVariable> {
    (any::<String>(), any::<bool>()).prop_map(|(name, template)| RunVariable { name, template })
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (any::<String>(), any::<String>(), variables(), variables()).prop_map(
        |(trigger, name, settings, variables)| Subscription { trigger, name, settings, variables },
    )
}

fn task() -> impl Strategy<Value = TaskSpec> {
    let resources = (option::of(1..=u32::MAX), option::of(1..=u64::MAX))
        .prop_map(|(cpu_millis, memory_bytes)| Resources { cpu_millis, memory_bytes });
    (
        (id(), any::<String>(), kind(), vec(dependency(), 0..4), variables()),
        (retries(), option::of(duration()), option::of(duration()), resources, any::<bool>()),
    )
        .prop_map(
            |(
                (id, description, kind, depends_on, variables),
                (retries, timeout, start_timeout, resources, continue_on_failure),
            )| TaskSpec {
                id: TaskId::new(id).unwrap(),
                description,
                kind,
                depends_on,
                variables,
                retries,
                timeout,
                start_timeout,
                resources,
                continue_on_failure,
            },
        )
}

fn kind() -> impl Strategy<Value = TaskKind> {
    // On the wire an empty text is one that was not given.
    let given = || option::of(".+");
    let auth = (any::<String>(), any::<String>())
        .prop_map(|(username, password_secret_key)| RegistryAuth { username, password_secret_key });
    let words = || vec(any::<String>(), 0..4);
    let custom = (given(), words(), words(), given(), option::of(auth), any::<bool>()).prop_map(
        |(image, entrypoint, command, working_dir, registry_auth, separate_output)| {
            TaskKind::Custom(CustomTask {
                image,
                entrypoint,
                command,
                working_dir,
                registry_auth,
                separate_output,
            })
        },
    );
    let common = (any::<String>(), variables())
        .prop_map(|(name, settings)| TaskKind::Common(CommonTask { name, settings }));

    prop_oneof![custom, common]
}

fn dependency() -> impl Strategy<Value = Dependency> {
    let condition =
        prop_oneof![Just(Condition::Any), Just(Condition::Success), Just(Condition::Failure)];
    (id(), condition)
        .prop_map(|(task, condition)| Dependency { task: TaskId::new(task).unwrap(), condition })
}

fn retries() -> impl Strategy<Value = RetryPolicy> {
    let end = prop_oneof![Just(RetryOn::Failed), Just(RetryOn::TimedOut), Just(RetryOn::Lost)];
    let policy = (any::<u32>(), option::of(duration()), option::of(duration()), vec(end, 1..4))
        .prop_map(|(attempts, backoff, max_backoff, on)| RetryPolicy {
            attempts,
            backoff,
            max_backoff,
            on,
        });
    prop_oneof![Just(RetryPolicy::default()), policy]
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..=i64::MAX.cast_unsigned(), 0..1_000_000_000_u32)
        .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}
