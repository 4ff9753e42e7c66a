//! The way back from the wire, written from the comments in proto/ and not from `to_proto`, so that
//! it can judge it.

use std::time::Duration;

use gofer_core::id::{PipelineId, TaskId};
use gofer_core::pipeline as core;
use gofer_proto::v1;

pub(crate) fn pipeline(spec: &v1::PipelineSpec) -> core::PipelineSpec {
    core::PipelineSpec {
        name: PipelineId::new(&spec.name).unwrap(),
        description: spec.description.clone(),
        tasks: spec.tasks.iter().map(task).collect(),
        variables: spec.variables.clone(),
        run_variables: spec
            .run_variables
            .iter()
            .map(|variable| core::RunVariable {
                name: variable.name.clone(),
                template: variable.template,
            })
            .collect(),
        parallelism: (spec.parallelism != 0).then_some(spec.parallelism),
        overlap: match spec.overlap() {
            v1::OverlapPolicy::Unspecified | v1::OverlapPolicy::Queue => core::Overlap::Queue,
            v1::OverlapPolicy::Skip => core::Overlap::Skip,
            v1::OverlapPolicy::CancelRunning => core::Overlap::CancelRunning,
        },
        subscriptions: spec
            .subscriptions
            .iter()
            .map(|subscription| core::Subscription {
                trigger: subscription.trigger.clone(),
                name: subscription.name.clone(),
                settings: subscription.settings.clone(),
                variables: subscription.variables.clone(),
            })
            .collect(),
        sdk: spec.sdk.clone(),
    }
}

fn task(task: &v1::TaskSpec) -> core::TaskSpec {
    let resources = task.resources.unwrap_or_default();
    core::TaskSpec {
        id: TaskId::new(&task.id).unwrap(),
        description: task.description.clone(),
        kind: kind(task.kind.as_ref().unwrap()),
        depends_on: task.depends_on.iter().map(dependency).collect(),
        variables: task.variables.clone(),
        retries: task.retries.as_ref().map_or_else(core::RetryPolicy::default, retries),
        timeout: task.timeout.map(duration),
        start_timeout: task.start_timeout.map(duration),
        resources: core::Resources {
            cpu_millis: (resources.cpu_millis != 0).then_some(resources.cpu_millis),
            memory_bytes: (resources.memory_bytes != 0).then_some(resources.memory_bytes),
        },
        continue_on_failure: task.continue_on_failure,
    }
}

fn kind(kind: &v1::task_spec::Kind) -> core::TaskKind {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    match kind {
        v1::task_spec::Kind::Custom(custom) => core::TaskKind::Custom(core::CustomTask {
            image: given(&custom.image),
            entrypoint: custom.entrypoint.clone(),
            command: custom.command.clone(),
            working_dir: given(&custom.working_dir),
            registry_auth: custom.registry_auth.as_ref().map(|auth| core::RegistryAuth {
                username: auth.username.clone(),
                password_secret_key: auth.password_secret_key.clone(),
            }),
            separate_output: custom.separate_output,
        }),
        v1::task_spec::Kind::Common(common) => core::TaskKind::Common(core::CommonTask {
            name: common.name.clone(),
            settings: common.settings.clone(),
        }),
    }
}

fn dependency(dependency: &v1::Dependency) -> core::Dependency {
    let condition = match dependency.condition() {
        v1::DependencyCondition::Any => core::Condition::Any,
        v1::DependencyCondition::Unspecified | v1::DependencyCondition::Success => {
            core::Condition::Success
        }
        v1::DependencyCondition::Failure => core::Condition::Failure,
    };
    core::Dependency { task: TaskId::new(&dependency.task).unwrap(), condition }
}

fn retries(policy: &v1::RetryPolicy) -> core::RetryPolicy {
    core::RetryPolicy {
        attempts: policy.attempts,
        backoff: policy.backoff.map(duration),
        max_backoff: policy.max_backoff.map(duration),
        on: policy
            .on()
            .map(|end| match end {
                v1::RetryOn::Failed => core::RetryOn::Failed,
                v1::RetryOn::TimedOut => core::RetryOn::TimedOut,
                v1::RetryOn::Lost => core::RetryOn::Lost,
                v1::RetryOn::Unspecified => panic!("unspecified is not a valid choice"),
            })
            .collect(),
    }
}

fn duration(duration: prost_types::Duration) -> Duration {
    duration.try_into().unwrap()
}
