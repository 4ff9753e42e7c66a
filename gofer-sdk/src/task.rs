//! The builder of one task.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use gofer_core::pipeline::{CommonTask, Condition, RegistryAuth, Resources, RetryOn};

use crate::edge::Parents;

/// One node of the pipeline: a command, with or without a container image, or a common task.
///
/// Nothing is checked before [`Pipeline::build`](crate::Pipeline::build), which lists everything
/// that is wrong at once. A setting given twice is the later one; dependencies and variables add
/// up.
#[derive(Debug, Clone)]
#[must_use = "a task does nothing until it is added to a pipeline"]
pub struct Task {
    pub(crate) id: String,
    pub(crate) description: String,
    pub(crate) image: Option<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) program: Option<Program>,
    pub(crate) working_dir: Option<String>,
    pub(crate) registry_auth: Option<RegistryAuth>,
    pub(crate) separate_output: bool,
    pub(crate) common: Option<CommonTask>,
    pub(crate) parents: Vec<(String, Condition)>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) retries: Option<u32>,
    pub(crate) backoff: Option<Duration>,
    pub(crate) max_backoff: Option<Duration>,
    pub(crate) retry_on: Option<Vec<RetryOn>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) resources: Resources,
    pub(crate) continue_on_failure: bool,
}

/// The program of a custom task. A script brings its own shell unless an entrypoint is given.
#[derive(Debug, Clone)]
pub(crate) enum Program {
    Command(Vec<String>),
    Script(String),
}

impl Task {
    /// A task with this id: 1 to 64 lower-case letters, digits, `-` and `_`, unique in the
    /// pipeline.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            description: String::new(),
            image: None,
            entrypoint: Vec::new(),
            program: None,
            working_dir: None,
            registry_auth: None,
            separate_output: false,
            common: None,
            parents: Vec::new(),
            variables: BTreeMap::new(),
            retries: None,
            backoff: None,
            max_backoff: None,
            retry_on: None,
            timeout: None,
            start_timeout: None,
            resources: Resources::default(),
            continue_on_failure: false,
        }
    }

    /// The id given to [`Task::new`].
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The task's purpose, shown to people.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    // The program.

    /// Runs in a container of this image, such as `docker.io/library/rust:1.95`. Without an image
    /// the command runs directly on the scheduler's host.
    pub fn image(mut self, reference: impl Into<String>) -> Self {
        self.image = Some(reference.into());
        self
    }

    /// Credentials for pulling the image: a user name, and the key of the pipeline secret that
    /// holds the password.
    pub fn registry_auth(
        mut self,
        username: impl Into<String>,
        password_secret_key: impl Into<String>,
    ) -> Self {
        self.registry_auth = Some(RegistryAuth {
            username: username.into(),
            password_secret_key: password_secret_key.into(),
        });
        self
    }

    /// The program and its arguments. No shell reads them: `*` and `$NAME` stay as they are.
    /// Replaces a script.
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.program = Some(Program::Command(words.into_iter().map(Into::into).collect()));
        self
    }

    /// A shell script, run as `sh -euc`: it ends at the first command that fails and at the first
    /// unset variable. With an [`entrypoint`](Self::entrypoint), that program gets the script as
    /// its last argument instead. Replaces a command.
    pub fn script(mut self, text: impl Into<String>) -> Self {
        self.program = Some(Program::Script(text.into()));
        self
    }

    /// Replaces the image's entrypoint; on the host it stands before the command. For a script in
    /// another language: `.entrypoint(["python3", "-c"]).script("print(1)")`.
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Where the command runs: an absolute path on the host, only for tasks without an image.
    /// Without it every attempt gets a fresh directory, removed afterwards.
    pub fn working_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.working_dir = Some(path.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Tells stdout and stderr apart, at the price of the order between them. Otherwise both are
    /// one stream, in the order in which they were written, on schedulers that can do that.
    pub fn separate_output(mut self) -> Self {
        self.separate_output = true;
        self
    }

    /// Uses a common task an administrator has installed, in place of image and command. Its
    /// settings reach it as variables, with names in upper case.
    pub fn common<K: Into<String>, V: Display>(
        mut self,
        name: impl Into<String>,
        settings: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let settings =
            settings.into_iter().map(|(key, value)| (key.into(), value.to_string())).collect();
        self.common = Some(CommonTask { name: name.into(), settings });
        self
    }

    /// An environment variable of this task, which wins over the pipeline's of the same name. The
    /// value may hold [references](crate::Reference). Names that start with `GOFER_` are Gofer's
    /// own.
    pub fn variable(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.variables.insert(name.into(), value.to_string());
        self
    }

    // When it runs. All parents must have ended and every edge must hold, or the task is skipped.

    /// Runs after these, if they were successful.
    pub fn depends_on(self, parents: impl Parents) -> Self {
        self.edges(parents, Condition::Success)
    }

    /// Runs after these, if each of them failed, timed out or was cancelled alone. When it succeeds
    /// it has handled the failure, and the run can still be successful.
    pub fn depends_on_failure(self, parents: impl Parents) -> Self {
        self.edges(parents, Condition::Failure)
    }

    /// Runs after these, however they ended, skipped included.
    pub fn depends_on_any(self, parents: impl Parents) -> Self {
        self.edges(parents, Condition::Any)
    }

    fn edges(mut self, parents: impl Parents, condition: Condition) -> Self {
        self.parents.extend(parents.into_ids().into_iter().map(|id| (id, condition)));
        self
    }

    // Failures.

    /// How many more attempts follow a failed one, at most 100.
    pub fn retries(mut self, attempts: u32) -> Self {
        self.retries = Some(attempts);
        self
    }

    /// The wait before the second attempt, doubled before each further one. 1 second unless given.
    pub fn backoff(mut self, wait: Duration) -> Self {
        self.backoff = Some(wait);
        self
    }

    /// The doubled wait never grows beyond this. 5 minutes unless given.
    pub fn max_backoff(mut self, wait: Duration) -> Self {
        self.max_backoff = Some(wait);
        self
    }

    /// Which ends are worth another attempt; all of them unless given.
    pub fn retry_on(mut self, ends: impl IntoIterator<Item = RetryOn>) -> Self {
        self.retry_on = Some(ends.into_iter().collect());
        self
    }

    /// How long one attempt may run before it is stopped, at most 30 days. No limit unless given.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How long one attempt may wait in the scheduler's queue, at most 30 days. The server's
    /// default unless given.
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.start_timeout = Some(limit);
        self
    }

    /// A failure of this task neither fails the run nor stops the tasks that depend on its success.
    pub fn continue_on_failure(mut self) -> Self {
        self.continue_on_failure = true;
        self
    }

    // Resources.

    /// Processor share in thousandths of a core. The scheduler's default unless given.
    pub fn cpu_millis(mut self, millis: u32) -> Self {
        self.resources.cpu_millis = Some(millis);
        self
    }

    /// Memory limit in MiB (1,048,576 bytes). The scheduler's default unless given.
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.resources.memory_bytes = Some(mib.saturating_mul(1024 * 1024));
        self
    }
}
