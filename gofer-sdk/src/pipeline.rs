//! The builder of a pipeline.

use std::collections::BTreeMap;
use std::fmt::Display;

use gofer_core::pipeline::{self as core, Overlap};

use crate::build::{Built, PipelineErrors, build};
use crate::task::Task;

/// A pipeline being written: a name, tasks, and how runs of it behave. End it with
/// [`run`](Pipeline::run) in `main`, or with [`build`](Pipeline::build) in a test.
#[derive(Debug, Clone)]
#[must_use = "a pipeline does nothing until `run` or `build` is called"]
pub struct Pipeline {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parallelism: Option<u32>,
    pub(crate) overlap: Overlap,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) run_variables: Vec<core::RunVariable>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) subscriptions: Vec<Subscription>,
}

impl Pipeline {
    /// A pipeline with this name: 1 to 64 lower-case letters, digits, `-` and `_`, unique in its
    /// namespace.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            parallelism: None,
            overlap: Overlap::default(),
            variables: BTreeMap::new(),
            run_variables: Vec::new(),
            tasks: Vec::new(),
            subscriptions: Vec::new(),
        }
    }

    /// The pipeline's purpose, shown to people.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// How many runs may be active at once, at least 1. No limit unless given.
    pub fn parallelism(mut self, runs: u32) -> Self {
        self.parallelism = Some(runs);
        self
    }

    /// The fate of a new run while [`parallelism`](Self::parallelism) runs are active. It waits
    /// unless given.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// An environment variable of every task. The value may hold [references](crate::Reference). A
    /// run may set another value, see [`run_variable`](Self::run_variable). Names that start with
    /// `GOFER_` are Gofer's own.
    pub fn variable(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.variables.insert(name.into(), value.to_string());
        self
    }

    /// A variable that a run may set (`gofer run start --var`). Once one is listed, a run may set
    /// no others. Without a list it may set all but those that decide what programs load, such as
    /// `PATH` and `LD_PRELOAD`; those have to be listed.
    ///
    /// A run's value is plain text: `secret{{key}}` in it stays these characters.
    pub fn run_variable(mut self, name: impl Into<String>) -> Self {
        self.run_variables.push(core::RunVariable { name: name.into(), template: false });
        self
    }

    /// As [`run_variable`](Self::run_variable), and the run's value may hold
    /// [references](crate::Reference). The starter of a run then chooses which of the pipeline's
    /// secrets and objects the task gets.
    pub fn run_template(mut self, name: impl Into<String>) -> Self {
        self.run_variables.push(core::RunVariable { name: name.into(), template: true });
        self
    }

    /// Adds a task. Their order means nothing; edges between tasks do.
    pub fn task(mut self, task: Task) -> Self {
        self.tasks.push(task);
        self
    }

    /// Adds several tasks.
    pub fn tasks(mut self, tasks: impl IntoIterator<Item = Task>) -> Self {
        self.tasks.extend(tasks);
        self
    }

    /// Lets a trigger start this pipeline.
    pub fn subscribe(mut self, subscription: Subscription) -> Self {
        self.subscriptions.push(subscription);
        self
    }

    /// Checks everything, with the rules the server has.
    ///
    /// # Errors
    /// Every rule that is broken, each with field, value and rule.
    pub fn build(self) -> Result<Built, PipelineErrors> {
        build(self)
    }
}

/// Lets a trigger start the pipeline.
///
/// ```
/// use gofer_sdk::{Pipeline, Subscription};
///
/// Pipeline::new("backup").subscribe(Subscription::new("cron", "nightly").setting("expression", "0 4 * * *"));
/// ```
#[derive(Debug, Clone)]
#[must_use = "a subscription does nothing until it is added to a pipeline"]
pub struct Subscription(pub(crate) core::Subscription);

impl Subscription {
    /// A subscription to an installed trigger, with a name that is unique in the pipeline.
    pub fn new(trigger: impl Into<String>, name: impl Into<String>) -> Self {
        Self(core::Subscription {
            trigger: trigger.into(),
            name: name.into(),
            settings: BTreeMap::new(),
            variables: BTreeMap::new(),
        })
    }

    /// A setting of the trigger; the trigger's documentation lists them.
    pub fn setting(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.0.settings.insert(name.into(), value.to_string());
        self
    }

    /// A variable of every run this subscription starts.
    pub fn variable(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.0.variables.insert(name.into(), value.to_string());
        self
    }
}
