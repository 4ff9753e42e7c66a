//! From the domain to the wire. The other direction is the server's.

use std::time::Duration;

use gofer_core::pipeline as core;
use gofer_proto::v1;

/// The message a pipeline program prints and `RegisterPipeline` takes.
#[must_use]
pub fn to_proto(spec: &core::PipelineSpec) -> v1::PipelineSpec {
    v1::PipelineSpec {
        name: spec.name.to_string(),
        description: spec.description.clone(),
        tasks: spec.tasks.iter().map(task).collect(),
        variables: spec.variables.clone(),
        run_variables: spec.run_variables.iter().map(run_variable).collect(),
        parallelism: spec.parallelism.unwrap_or(0),
        overlap: overlap(spec.overlap).into(),
        subscriptions: spec.subscriptions.iter().map(subscription).collect(),
        sdk: spec.sdk.clone(),
    }
}

fn overlap(overlap: core::Overlap) -> v1::OverlapPolicy {
    match overlap {
        core::Overlap::Queue => v1::OverlapPolicy::Queue,
        core::Overlap::Skip => v1::OverlapPolicy::Skip,
        core::Overlap::CancelRunning => v1::OverlapPolicy::CancelRunning,
    }
}

fn run_variable(variable: &core::RunVariable) -> v1::RunVariable {
    v1::RunVariable { name: variable.name.clone(), template: variable.template }
}

fn subscription(subscription: &core::Subscription) -> v1::TriggerSubscription {
    v1::TriggerSubscription {
        trigger: subscription.trigger.clone(),
        name: subscription.name.clone(),
        settings: subscription.settings.clone(),
        variables: subscription.variables.clone(),
    }
}

fn task(task: &core::TaskSpec) -> v1::TaskSpec {
    v1::TaskSpec {
        id: task.id.to_string(),
        description: task.description.clone(),
        kind: Some(kind(&task.kind)),
        depends_on: task.depends_on.iter().map(dependency).collect(),
        variables: task.variables.clone(),
        retries: retries(&task.retries),
        timeout: task.timeout.map(duration),
        start_timeout: task.start_timeout.map(duration),
        resources: resources(task.resources),
        continue_on_failure: task.continue_on_failure,
    }
}

fn kind(kind: &core::TaskKind) -> v1::task_spec::Kind {
    match kind {
        core::TaskKind::Custom(custom) => v1::task_spec::Kind::Custom(v1::CustomTask {
            image: custom.image.clone().unwrap_or_default(),
            entrypoint: custom.entrypoint.clone(),
            command: custom.command.clone(),
            working_dir: custom.working_dir.clone().unwrap_or_default(),
            registry_auth: custom.registry_auth.as_ref().map(|auth| v1::RegistryAuth {
                username: auth.username.clone(),
                password_secret_key: auth.password_secret_key.clone(),
            }),
            separate_output: custom.separate_output,
        }),
        core::TaskKind::Common(common) => v1::task_spec::Kind::Common(v1::CommonTaskUse {
            name: common.name.clone(),
            settings: common.settings.clone(),
        }),
    }
}

fn dependency(dependency: &core::Dependency) -> v1::Dependency {
    let condition = match dependency.condition {
        core::Condition::Any => v1::DependencyCondition::Any,
        core::Condition::Success => v1::DependencyCondition::Success,
        core::Condition::Failure => v1::DependencyCondition::Failure,
    };
    v1::Dependency { task: dependency.task.to_string(), condition: condition.into() }
}

/// Absent when nothing was asked for. Otherwise the kinds of ends are written out, so that they do
/// not depend on the reader's default.
fn retries(policy: &core::RetryPolicy) -> Option<v1::RetryPolicy> {
    let on = policy.on.iter().map(|end| match end {
        core::RetryOn::Failed => v1::RetryOn::Failed,
        core::RetryOn::TimedOut => v1::RetryOn::TimedOut,
        core::RetryOn::Lost => v1::RetryOn::Lost,
    });
    (*policy != core::RetryPolicy::default()).then(|| v1::RetryPolicy {
        attempts: policy.attempts,
        backoff: policy.backoff.map(duration),
        max_backoff: policy.max_backoff.map(duration),
        on: on.map(Into::into).collect(),
    })
}

/// Absent when nothing is asked for: on the wire 0 is the scheduler's default.
fn resources(resources: core::Resources) -> Option<v1::Resources> {
    (resources != core::Resources::default()).then(|| v1::Resources {
        cpu_millis: resources.cpu_millis.unwrap_or(0),
        memory_bytes: resources.memory_bytes.unwrap_or(0),
    })
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        // A duration this long is refused by validation anyway.
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}
