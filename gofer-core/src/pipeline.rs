//! What a user describes: a pipeline, its tasks and the edges between them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{PipelineId, TaskId};
use crate::time::optional_micros;

/// A DAG of tasks with a name. Registered, it becomes an immutable version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineSpec {
    /// The pipeline's name in its namespace.
    pub name: PipelineId,
    /// For people; may be empty.
    #[serde(default)]
    pub description: String,
    /// The nodes of the DAG, in the order the user wrote them.
    pub tasks: Vec<TaskSpec>,
    /// Variables every task gets; a task's own win.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// The variables a run may set; when empty, any but those that
    /// [`run_variables`](crate::run_variables) guards.
    #[serde(default)]
    pub run_variables: Vec<RunVariable>,
    /// How many runs may be active at once; `None` is no limit.
    #[serde(default)]
    pub parallelism: Option<u32>,
    /// What becomes of a new run when `parallelism` runs are active.
    #[serde(default)]
    pub overlap: Overlap,
    /// Triggers that start this pipeline.
    #[serde(default)]
    pub subscriptions: Vec<Subscription>,
    /// The SDK that wrote this, such as `rust/0.1.0`; for people.
    #[serde(default)]
    pub sdk: String,
}

/// A variable that a run may set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunVariable {
    /// Its name.
    pub name: String,
    /// Whether the run's value is a template, as the pipeline's own are. Otherwise it is plain
    /// text.
    #[serde(default)]
    pub template: bool,
}

/// What becomes of a new run when as many runs as `parallelism` allows are active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It waits; the oldest goes first.
    #[default]
    Queue,
    /// It completes at once as cancelled, with a reason.
    Skip,
    /// The oldest active runs are cancelled until there is room for it.
    CancelRunning,
}

/// A pipeline's request to be started by a trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The trigger's name.
    pub trigger: String,
    /// This subscription's name, unique in the pipeline.
    pub name: String,
    /// Settings the trigger understands.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Variables for the runs it starts.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
}

/// One node of the DAG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Unique in the pipeline.
    pub id: TaskId,
    /// For people; may be empty.
    #[serde(default)]
    pub description: String,
    /// What is executed.
    pub kind: TaskKind,
    /// The task's parents.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// Variables of this task; they win over the pipeline's.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// When and how often it is tried again.
    #[serde(default)]
    pub retries: RetryPolicy,
    /// How long one attempt may run.
    #[serde(default, with = "optional_micros")]
    pub timeout: Option<Duration>,
    /// How long one attempt may wait in the scheduler before it runs.
    #[serde(default, with = "optional_micros")]
    pub start_timeout: Option<Duration>,
    /// What the scheduler should set aside.
    #[serde(default)]
    pub resources: Resources,
    /// A failure of this task neither fails the run nor stops its `success` children.
    #[serde(default)]
    pub continue_on_failure: bool,
}

/// What a task executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum TaskKind {
    /// An image and/or a command of the user's.
    Custom(CustomTask),
    /// A task an administrator installed, configured here.
    Common(CommonTask),
}

/// An image and/or a command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CustomTask {
    /// Container image; `None` runs the command on the scheduler's host executor.
    #[serde(default)]
    pub image: Option<String>,
    /// Replaces the image's entrypoint; prepended to `command` on the host executor.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Host executor only: an absolute directory; `None` is a fresh one per execution.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Who pulls the image.
    #[serde(default)]
    pub registry_auth: Option<RegistryAuth>,
    /// Stdout and stderr are told apart, at the price of the order between them.
    #[serde(default)]
    pub separate_output: bool,
}

/// Credentials for a private image registry; the password is the name of a pipeline secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAuth {
    /// Registry user.
    pub username: String,
    /// Key of the pipeline secret that holds the password.
    pub password_secret_key: String,
}

/// A common task by name, with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonTask {
    /// The installed common task.
    pub name: String,
    /// Becomes variables of the task.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// An edge: this task waits for `task`, and starts only if it ended as `condition` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The parent.
    pub task: TaskId,
    /// How the parent must have ended.
    pub condition: Condition,
}

/// How a parent must have ended for the edge to be satisfied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// However it ended, skipped included.
    Any,
    /// Successfully (or failed with `continue_on_failure`).
    #[default]
    Success,
    /// Failed, timed out, or cancelled by itself.
    Failure,
}

/// When and how often a task is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How many times after the first; 0 is never.
    #[serde(default)]
    pub attempts: u32,
    /// Wait before the second attempt; doubles with each further one.
    #[serde(default, with = "optional_micros")]
    pub backoff: Option<Duration>,
    /// The wait never grows beyond this.
    #[serde(default, with = "optional_micros")]
    pub max_backoff: Option<Duration>,
    /// Which ends are worth another attempt.
    #[serde(default = "RetryOn::default_set")]
    pub on: Vec<RetryOn>,
}

impl RetryPolicy {
    /// The wait before the second attempt when none is given.
    pub const DEFAULT_BACKOFF: Duration = Duration::from_secs(1);
    /// The longest wait when none is given.
    pub const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(300);
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 0, backoff: None, max_backoff: None, on: RetryOn::default_set() }
    }
}

/// An end of an attempt that a retry policy may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// It ended with another exit code than 0, or could not be started.
    Failed,
    /// It ran, or waited to start, longer than allowed.
    TimedOut,
    /// The infrastructure lost it more often than the engine makes good by itself.
    Lost,
}

impl RetryOn {
    fn default_set() -> Vec<Self> {
        vec![Self::Failed, Self::TimedOut, Self::Lost]
    }
}

/// What the scheduler should set aside, and limit the task to where it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core; `None` is the scheduler's default.
    #[serde(default)]
    pub cpu_millis: Option<u32>,
    /// Bytes; `None` is the scheduler's default.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

impl PipelineSpec {
    /// The task with this id.
    #[must_use]
    pub fn task(&self, id: &TaskId) -> Option<&TaskSpec> {
        self.tasks.iter().find(|task| task.id == *id)
    }
}
