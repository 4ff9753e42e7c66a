//! The variables of a task: which value wins, and whether it is a template.

use std::collections::{BTreeMap, HashSet};

use gofer_core::pipeline::{PipelineSpec, TaskSpec};
use gofer_core::run::Run;
use gofer_core::{run_variables, template};

/// The value of a variable as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written<'a> {
    /// By the pipeline, or by a run where the pipeline takes templates.
    Template(&'a str),
    /// By a run: text, whatever it looks like.
    Plain(&'a str),
}

/// The variables of a task by name, later winning: pipeline, task, then trigger and run.
pub(crate) fn variables<'a>(
    spec: &'a PipelineSpec,
    task: &'a TaskSpec,
    run: &'a Run,
) -> BTreeMap<&'a str, Written<'a>> {
    let templates: HashSet<&str> = run_variables::templates(spec).collect();
    let own = spec.variables.iter().chain(&task.variables);
    let own = own.map(|(name, value)| (name.as_str(), Written::Template(value)));
    let given = run.variables.iter().map(|(name, value)| {
        let is_template = templates.contains(name.as_str());
        (name.as_str(), if is_template { Written::Template(value) } else { Written::Plain(value) })
    });
    own.chain(given).collect()
}

/// Whether any variable of the task names a secret.
pub(crate) fn names_secrets(spec: &PipelineSpec, task: &TaskSpec, run: &Run) -> bool {
    variables(spec, task, run)
        .values()
        .any(|value| matches!(value, Written::Template(template) if mentions_secrets(template)))
}

/// Whether a value of the run looks as if it named a secret. Versions before interpolated it then.
pub(crate) fn run_mentions_secrets(run: &Run) -> bool {
    run.variables.values().any(|value| mentions_secrets(value))
}

fn mentions_secrets(template: &str) -> bool {
    template::references(template).any(|(source, _)| source.is_secret())
}
