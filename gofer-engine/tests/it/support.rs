//! Pipelines and snapshots for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::journal::RunSnapshot;
use gofer_core::pipeline::{
    Condition, CustomTask, Dependency, Overlap, PipelineSpec, Resources, RetryPolicy, TaskKind,
    TaskSpec,
};
use gofer_core::run::{Initiator, Run, RunState, TaskRun};
use gofer_core::{NamespaceId, PipelineId, RunKey, RunNumber, TaskId, Timestamp, Version};

pub(crate) fn id(name: &str) -> TaskId {
    TaskId::new(name).unwrap()
}

pub(crate) fn task(name: &str, parents: &[(&str, Condition)]) -> TaskSpec {
    TaskSpec {
        id: id(name),
        description: String::new(),
        kind: TaskKind::Custom(CustomTask {
            command: vec!["true".to_owned()],
            ..CustomTask::default()
        }),
        depends_on: parents
            .iter()
            .map(|(task, condition)| Dependency { task: id(task), condition: *condition })
            .collect(),
        variables: BTreeMap::new(),
        retries: RetryPolicy::default(),
        timeout: None,
        start_timeout: None,
        resources: Resources::default(),
        continue_on_failure: false,
    }
}

pub(crate) fn retried(mut spec: TaskSpec, attempts: u32) -> TaskSpec {
    spec.retries.attempts = attempts;
    spec.retries.backoff = Some(Duration::from_secs(1));
    spec
}

pub(crate) fn pipeline(tasks: Vec<TaskSpec>) -> PipelineSpec {
    let spec = PipelineSpec {
        run_variables: Vec::new(),
        name: PipelineId::new("p").unwrap(),
        description: String::new(),
        tasks,
        variables: BTreeMap::new(),
        parallelism: None,
        overlap: Overlap::Queue,
        subscriptions: Vec::new(),
        sdk: String::new(),
    };
    assert_eq!(gofer_core::validate::pipeline(&spec), []);
    spec
}

/// A run that was just claimed for the first time.
pub(crate) fn snapshot(spec: PipelineSpec) -> RunSnapshot {
    let key = RunKey {
        namespace: NamespaceId::new("n").unwrap(),
        pipeline: spec.name.clone(),
        run: RunNumber(1),
    };

    let run = Run {
        key,
        version: Version(1),
        state: RunState::Running,
        reason: None,
        initiator: Initiator::Token("t".to_owned()),
        variables: BTreeMap::new(),
        retry_of: None,
        cancel: None,
        token_nonce: [0; 16],
        created_at: Timestamp(0),
        started_at: Some(Timestamp(0)),
        ended_at: None,
    };

    let tasks = spec
        .tasks
        .iter()
        .map(|task| (task.id.clone(), TaskRun::pending(task.id.clone())))
        .collect();
    RunSnapshot { run, spec: Arc::new(spec), tasks }
}
