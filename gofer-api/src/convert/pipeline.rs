//! Pipelines and their specs.

use gofer_core::entity::{Pipeline, PipelineVersion};
use gofer_core::id::{PipelineId, TaskId};
use gofer_core::pipeline::{
    CommonTask, Condition, CustomTask, Dependency, Overlap, PipelineSpec, RegistryAuth, Resources,
    RetryOn, RetryPolicy, RunVariable, Subscription, TaskKind, TaskSpec,
};
use gofer_core::validate::{MAX_TASKS, MAX_VIOLATIONS, Violation, is_enough};
use gofer_db::PipelineVersionSummary;
use gofer_proto::v1;
use gofer_proto::v1::task_spec::Kind;

use super::{duration_from_wire, duration_to_wire, timestamp};

/// A pipeline, with the description of its latest version.
pub(crate) fn pipeline(pipeline: &Pipeline, latest: &PipelineSpec) -> v1::Pipeline {
    v1::Pipeline {
        namespace: pipeline.namespace.to_string(),
        name: pipeline.id.to_string(),
        enabled: pipeline.enabled,
        latest_version: pipeline.latest_version.0,
        created_at: Some(timestamp(pipeline.created_at)),
        updated_at: Some(timestamp(pipeline.updated_at)),
        description: latest.description.clone(),
    }
}

/// A version with its spec.
pub(crate) fn version(version: &PipelineVersion) -> v1::PipelineVersion {
    v1::PipelineVersion {
        namespace: version.namespace.to_string(),
        pipeline: version.pipeline.to_string(),
        version: version.version.0,
        spec: Some(pipeline_spec_to_wire(&version.spec)),
        digest: version.digest.clone(),
        registered_by: version.registered_by.clone(),
        created_at: Some(timestamp(version.created_at)),
    }
}

/// A version without its spec.
pub(crate) fn version_summary(version: PipelineVersionSummary) -> v1::PipelineVersion {
    v1::PipelineVersion {
        namespace: version.namespace.to_string(),
        pipeline: version.pipeline.to_string(),
        version: version.version.0,
        spec: None,
        digest: version.digest,
        registered_by: version.registered_by,
        created_at: Some(timestamp(version.created_at)),
    }
}

/// A spec to the wire.
pub(crate) fn pipeline_spec_to_wire(spec: &PipelineSpec) -> v1::PipelineSpec {
    v1::PipelineSpec {
        name: spec.name.to_string(),
        description: spec.description.clone(),
        tasks: spec.tasks.iter().map(task_to_wire).collect(),
        variables: spec.variables.clone(),
        run_variables: spec.run_variables.iter().map(run_variable_to_wire).collect(),
        parallelism: spec.parallelism.unwrap_or(0),
        overlap: match spec.overlap {
            Overlap::Queue => v1::OverlapPolicy::Queue,
            Overlap::Skip => v1::OverlapPolicy::Skip,
            Overlap::CancelRunning => v1::OverlapPolicy::CancelRunning,
        }
        .into(),
        subscriptions: spec.subscriptions.iter().map(subscription_to_wire).collect(),
        sdk: spec.sdk.clone(),
    }
}

fn run_variable_to_wire(variable: &RunVariable) -> v1::RunVariable {
    v1::RunVariable { name: variable.name.clone(), template: variable.template }
}

fn subscription_to_wire(subscription: &Subscription) -> v1::TriggerSubscription {
    v1::TriggerSubscription {
        trigger: subscription.trigger.clone(),
        name: subscription.name.clone(),
        settings: subscription.settings.clone(),
        variables: subscription.variables.clone(),
    }
}

fn task_to_wire(task: &TaskSpec) -> v1::TaskSpec {
    let retries = (task.retries != RetryPolicy::default()).then(|| v1::RetryPolicy {
        attempts: task.retries.attempts,
        backoff: task.retries.backoff.map(duration_to_wire),
        max_backoff: task.retries.max_backoff.map(duration_to_wire),
        on: task.retries.on.iter().map(|on| retry_on_to_wire(*on).into()).collect(),
    });

    let resources = (task.resources != Resources::default()).then(|| v1::Resources {
        cpu_millis: task.resources.cpu_millis.unwrap_or(0),
        memory_bytes: task.resources.memory_bytes.unwrap_or(0),
    });

    v1::TaskSpec {
        id: task.id.to_string(),
        description: task.description.clone(),
        depends_on: task.depends_on.iter().map(dependency_to_wire).collect(),
        variables: task.variables.clone(),
        retries,
        timeout: task.timeout.map(duration_to_wire),
        start_timeout: task.start_timeout.map(duration_to_wire),
        resources,
        continue_on_failure: task.continue_on_failure,
        kind: Some(kind_to_wire(&task.kind)),
    }
}

fn kind_to_wire(kind: &TaskKind) -> Kind {
    match kind {
        TaskKind::Custom(custom) => Kind::Custom(v1::CustomTask {
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
        TaskKind::Common(common) => Kind::Common(v1::CommonTaskUse {
            name: common.name.clone(),
            settings: common.settings.clone(),
        }),
    }
}

/// An edge to the wire.
pub(super) fn dependency_to_wire(dependency: &Dependency) -> v1::Dependency {
    let condition = match dependency.condition {
        Condition::Any => v1::DependencyCondition::Any,
        Condition::Success => v1::DependencyCondition::Success,
        Condition::Failure => v1::DependencyCondition::Failure,
    };
    v1::Dependency { task: dependency.task.to_string(), condition: condition.into() }
}

fn retry_on_to_wire(on: RetryOn) -> v1::RetryOn {
    match on {
        RetryOn::Failed => v1::RetryOn::Failed,
        RetryOn::TimedOut => v1::RetryOn::TimedOut,
        RetryOn::Lost => v1::RetryOn::Lost,
    }
}

/// A spec from the wire, its identifiers and enumerations checked; the other rules are
/// `gofer_core::validate`'s.
///
/// # Errors
/// The fields that have no meaning in the domain, at most [`MAX_VIOLATIONS`].
pub(crate) fn pipeline_spec_from_wire(
    spec: v1::PipelineSpec,
) -> Result<PipelineSpec, Vec<Violation>> {
    let mut found = Vec::new();
    let name = PipelineId::new(&spec.name)
        .map_err(|error| found.push(Violation::new("name", error.value, error.rule)))
        .ok();
    let overlap = match v1::OverlapPolicy::try_from(spec.overlap) {
        Ok(v1::OverlapPolicy::Unspecified | v1::OverlapPolicy::Queue) => Overlap::Queue,
        Ok(v1::OverlapPolicy::Skip) => Overlap::Skip,
        Ok(v1::OverlapPolicy::CancelRunning) => Overlap::CancelRunning,
        Err(_) => {
            found.push(unknown("overlap", spec.overlap, "QUEUE, SKIP or CANCEL_RUNNING"));
            Overlap::Queue
        }
    };

    if spec.tasks.len() > MAX_TASKS {
        found.push(Violation::new(
            "tasks",
            spec.tasks.len().to_string(),
            format!("at most {MAX_TASKS} tasks"),
        ));
        return Err(found);
    }

    let mut tasks = Vec::with_capacity(spec.tasks.len());
    for (at, task) in spec.tasks.into_iter().enumerate() {
        if is_enough(&found) {
            found.truncate(MAX_VIOLATIONS);
            return Err(found);
        }
        tasks.extend(task_from_wire(&format!("tasks[{at}]"), task, &mut found));
    }

    let subscriptions = spec.subscriptions.into_iter().map(subscription_from_wire).collect();
    let run_variables = spec.run_variables.into_iter().map(run_variable_from_wire).collect();
    match name {
        Some(name) if found.is_empty() => Ok(PipelineSpec {
            name,
            description: spec.description,
            tasks,
            variables: spec.variables,
            run_variables,
            parallelism: (spec.parallelism > 0).then_some(spec.parallelism),
            overlap,
            subscriptions,
            sdk: spec.sdk,
        }),
        _ => Err(found),
    }
}

fn run_variable_from_wire(variable: v1::RunVariable) -> RunVariable {
    let v1::RunVariable { name, template } = variable;
    RunVariable { name, template }
}

fn subscription_from_wire(subscription: v1::TriggerSubscription) -> Subscription {
    let v1::TriggerSubscription { trigger, name, settings, variables } = subscription;
    Subscription { trigger, name, settings, variables }
}

fn task_from_wire(field: &str, task: v1::TaskSpec, found: &mut Vec<Violation>) -> Option<TaskSpec> {
    let id = TaskId::new(&task.id)
        .map_err(|error| found.push(Violation::new(format!("{field}.id"), error.value, error.rule)))
        .ok();
    let kind = match task.kind {
        Some(Kind::Custom(custom)) => Some(TaskKind::Custom(custom_from_wire(custom))),
        Some(Kind::Common(common)) => {
            Some(TaskKind::Common(CommonTask { name: common.name, settings: common.settings }))
        }
        None => {
            found.push(Violation::new(
                format!("{field}.kind"),
                "",
                "one of `custom` and `common` is set",
            ));
            None
        }
    };

    let mut depends_on = Vec::with_capacity(task.depends_on.len());
    for (at, edge) in task.depends_on.into_iter().enumerate() {
        if is_enough(found) {
            return None;
        }
        depends_on.extend(dependency_from_wire(&format!("{field}.depends_on[{at}]"), &edge, found));
    }

    let timeout = optional_duration(&format!("{field}.timeout"), task.timeout.as_ref(), found);
    let start_timeout =
        optional_duration(&format!("{field}.start_timeout"), task.start_timeout.as_ref(), found);
    let retries = retries_from_wire(&format!("{field}.retries"), task.retries, found);
    let resources = task.resources.unwrap_or_default();

    Some(TaskSpec {
        id: id?,
        description: task.description,
        kind: kind?,
        depends_on,
        variables: task.variables,
        retries,
        timeout,
        start_timeout,
        resources: Resources {
            cpu_millis: (resources.cpu_millis > 0).then_some(resources.cpu_millis),
            memory_bytes: (resources.memory_bytes > 0).then_some(resources.memory_bytes),
        },
        continue_on_failure: task.continue_on_failure,
    })
}

fn custom_from_wire(custom: v1::CustomTask) -> CustomTask {
    CustomTask {
        image: (!custom.image.is_empty()).then_some(custom.image),
        entrypoint: custom.entrypoint,
        command: custom.command,
        working_dir: (!custom.working_dir.is_empty()).then_some(custom.working_dir),
        registry_auth: custom.registry_auth.map(|auth| RegistryAuth {
            username: auth.username,
            password_secret_key: auth.password_secret_key,
        }),
        separate_output: custom.separate_output,
    }
}

fn dependency_from_wire(
    field: &str,
    edge: &v1::Dependency,
    found: &mut Vec<Violation>,
) -> Option<Dependency> {
    let condition = match v1::DependencyCondition::try_from(edge.condition) {
        Ok(v1::DependencyCondition::Any) => Condition::Any,
        Ok(v1::DependencyCondition::Unspecified | v1::DependencyCondition::Success) => {
            Condition::Success
        }
        Ok(v1::DependencyCondition::Failure) => Condition::Failure,
        Err(_) => {
            found.push(unknown(
                &format!("{field}.condition"),
                edge.condition,
                "ANY, SUCCESS or FAILURE",
            ));
            return None;
        }
    };
    match TaskId::new(&edge.task) {
        Ok(task) => Some(Dependency { task, condition }),
        Err(error) => {
            found.push(Violation::new(format!("{field}.task"), error.value, error.rule));
            None
        }
    }
}

fn retries_from_wire(
    field: &str,
    retries: Option<v1::RetryPolicy>,
    found: &mut Vec<Violation>,
) -> RetryPolicy {
    let Some(retries) = retries else { return RetryPolicy::default() };
    let mut on = Vec::new();
    for value in retries.on {
        if is_enough(found) {
            break;
        }

        let known = match v1::RetryOn::try_from(value) {
            Ok(v1::RetryOn::Failed) => RetryOn::Failed,
            Ok(v1::RetryOn::TimedOut) => RetryOn::TimedOut,
            Ok(v1::RetryOn::Lost) => RetryOn::Lost,
            Ok(v1::RetryOn::Unspecified) | Err(_) => {
                found.push(unknown(&format!("{field}.on"), value, "FAILED, TIMED_OUT or LOST"));
                continue;
            }
        };

        if !on.contains(&known) {
            on.push(known);
        }
    }

    RetryPolicy {
        attempts: retries.attempts,
        backoff: optional_duration(&format!("{field}.backoff"), retries.backoff.as_ref(), found),
        max_backoff: optional_duration(
            &format!("{field}.max_backoff"),
            retries.max_backoff.as_ref(),
            found,
        ),
        on: if on.is_empty() { RetryPolicy::default().on } else { on },
    }
}

fn optional_duration(
    field: &str,
    duration: Option<&prost_types::Duration>,
    found: &mut Vec<Violation>,
) -> Option<std::time::Duration> {
    duration.and_then(|duration| {
        duration_from_wire(field, duration).map_err(|violation| found.push(violation)).ok()
    })
}

fn unknown(field: &str, value: i32, known: &str) -> Violation {
    Violation::new(field, value.to_string(), format!("one of {known}"))
}
