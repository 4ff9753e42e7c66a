//! Turns the builders into a pipeline that may be registered, or into the list of all its errors.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use gofer_core::id::{PipelineId, TaskId};
use gofer_core::pipeline::{CustomTask, Dependency, PipelineSpec, RetryPolicy, TaskKind, TaskSpec};
use gofer_core::validate::{self, Violation};
use gofer_proto::v1;
use prost::Message;

use crate::pipeline::Pipeline;
use crate::proto::to_proto;
use crate::task::{Program, Task};

/// Longest encoded pipeline, as the contract has it: a gRPC message is at most 4 MiB unless both
/// sides agree on more.
const MAX_ENCODED_BYTES: usize = 3 * 1024 * 1024;

/// A pipeline that breaks no rule. `Display` is a summary for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built(PipelineSpec);

impl Built {
    /// The pipeline as Gofer's own code sees it; for tests of a pipeline.
    #[must_use]
    pub fn spec(&self) -> &PipelineSpec {
        &self.0
    }

    /// The pipeline as a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::PipelineSpec {
        to_proto(&self.0)
    }

    /// The message's bytes: what a pipeline program writes to its standard output.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }
}

/// Every rule a pipeline breaks. `Display` has one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineErrors {
    pipeline: String,
    violations: Vec<Violation>,
}

impl PipelineErrors {
    /// The broken rules; never empty.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}

impl fmt::Display for PipelineErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.violations.len();
        let errors = if count == 1 { "error" } else { "errors" };
        write!(f, "pipeline `{}` has {count} {errors}:", self.pipeline)?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl Error for PipelineErrors {}

pub(crate) fn build(pipeline: Pipeline) -> Result<Built, PipelineErrors> {
    let written_name = pipeline.name.clone();
    let mut ids = Ids::default();
    let mut found = Vec::new();
    let name = PipelineId::new(&pipeline.name).unwrap_or_else(|invalid| {
        found.push(Violation::new("name", &pipeline.name, invalid.rule));
        PipelineId::new("invalid").expect("a valid name")
    });

    let tasks =
        pipeline.tasks.into_iter().map(|task| task_spec(task, &mut ids, &mut found)).collect();
    let spec = PipelineSpec {
        name,
        description: pipeline.description,
        tasks,
        variables: pipeline.variables,
        run_variables: pipeline.run_variables,
        parallelism: pipeline.parallelism,
        overlap: pipeline.overlap,
        subscriptions: pipeline
            .subscriptions
            .into_iter()
            .map(|subscription| subscription.0)
            .collect(),
        sdk: concat!("rust/", env!("CARGO_PKG_VERSION")).to_owned(),
    };

    found.extend(validate::pipeline(&spec).into_iter().map(|violation| ids.as_written(violation)));
    let encoded = to_proto(&spec).encoded_len();
    if encoded > MAX_ENCODED_BYTES {
        let rule = "at most 3 MiB (3145728 bytes) encoded; put long scripts and values into files \
                    or objects";
        found.push(Violation::new("pipeline", format!("{encoded} bytes"), rule));
    }

    if found.is_empty() {
        Ok(Built(spec))
    } else {
        Err(PipelineErrors { pipeline: written_name, violations: found })
    }
}

/// Task ids on their way from text to type. A bad id gets one stand-in for all its uses, so that
/// the edges to it are still checked. Messages show the text as written.
#[derive(Debug, Default)]
struct Ids {
    stand_ins: BTreeMap<String, TaskId>,
}

impl Ids {
    fn get(&mut self, written: &str) -> TaskId {
        TaskId::new(written).unwrap_or_else(|_| {
            let next = self.stand_ins.len();
            let new = || TaskId::new(format!("gofer-sdk-stand-in-{next}-x")).expect("a valid id");
            self.stand_ins.entry(written.to_owned()).or_insert_with(new).clone()
        })
    }

    fn as_written(&self, mut violation: Violation) -> Violation {
        for (written, id) in &self.stand_ins {
            let shown = shorten(written);
            for text in [&mut violation.field, &mut violation.value, &mut violation.rule] {
                *text = text.replace(id.as_str(), &shown);
            }
        }
        violation
    }
}

fn task_spec(task: Task, ids: &mut Ids, found: &mut Vec<Violation>) -> TaskSpec {
    let field = format!("tasks[{}]", shorten(&task.id));
    if let Err(invalid) = TaskId::new(&task.id) {
        found.push(Violation::new(format!("{field}.id"), &task.id, invalid.rule));
    }

    check_combinations(&task, &field, found);
    let mut policy = RetryPolicy {
        attempts: task.retries.unwrap_or(0),
        backoff: task.backoff,
        max_backoff: task.max_backoff,
        ..RetryPolicy::default()
    };

    if let Some(ends) = task.retry_on {
        policy.on = ends;
    }

    let depends_on = task
        .parents
        .iter()
        .map(|(parent, condition)| Dependency { task: ids.get(parent), condition: *condition })
        .collect();
    let kind = match task.common {
        Some(common) => TaskKind::Common(common),
        None => TaskKind::Custom(CustomTask {
            separate_output: task.separate_output,
            ..custom(
                task.image,
                task.entrypoint,
                task.program,
                task.working_dir,
                task.registry_auth,
            )
        }),
    };

    TaskSpec {
        id: ids.get(&task.id),
        description: task.description,
        kind,
        depends_on,
        variables: task.variables,
        retries: policy,
        timeout: task.timeout,
        start_timeout: task.start_timeout,
        resources: task.resources,
        continue_on_failure: task.continue_on_failure,
    }
}

fn custom(
    image: Option<String>,
    mut entrypoint: Vec<String>,
    program: Option<Program>,
    working_dir: Option<String>,
    registry_auth: Option<gofer_core::pipeline::RegistryAuth>,
) -> CustomTask {
    let command = match program {
        None => Vec::new(),
        Some(Program::Command(words)) => words,
        Some(Program::Script(text)) => {
            // As the entrypoint, so that an image with an entrypoint of its own runs the script,
            // too.
            if entrypoint.is_empty() {
                entrypoint = vec!["sh".to_owned(), "-euc".to_owned()];
            }
            vec![text]
        }
    };
    CustomTask { image, entrypoint, command, working_dir, registry_auth, separate_output: false }
}

/// Settings that mean nothing without, or beside, another: only the builder can tell, the message
/// cannot say them.
fn check_combinations(task: &Task, field: &str, found: &mut Vec<Violation>) {
    let custom = task.image.is_some()
        || task.program.is_some()
        || !task.entrypoint.is_empty()
        || task.working_dir.is_some()
        || task.registry_auth.is_some()
        || task.separate_output;

    if let Some(common) = &task.common
        && custom
    {
        let rule = "a common task brings its own image and command: remove these, or `common`";
        found.push(Violation::new(format!("{field}.common.name"), &common.name, rule));
    }

    if task.retries.is_none()
        && (task.backoff.is_some() || task.max_backoff.is_some() || task.retry_on.is_some())
    {
        let rule = "says how to retry, but nothing is retried: set `retries`, too";
        found.push(Violation::new(format!("{field}.retries"), "", rule));
    }

    if task.retry_on.as_ref().is_some_and(Vec::is_empty) {
        let rule = "names at least one end; for no retries leave out `retries`";
        found.push(Violation::new(format!("{field}.retries.on"), "", rule));
    }

    if let (Some(backoff), Some(max_backoff)) = (task.backoff, task.max_backoff)
        && max_backoff < backoff
    {
        let rule = format!("at least `backoff`, which is {backoff:?}");
        found.push(Violation::new(
            format!("{field}.retries.max_backoff"),
            format!("{max_backoff:?}"),
            rule,
        ));
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
