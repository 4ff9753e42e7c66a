//! The things that Gofer names in its errors.

use std::fmt;

/// A kind of thing that has a name. It is the subject of an error's message and part of its stable
/// reason, so that both always agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A namespace.
    Namespace,
    /// A pipeline.
    Pipeline,
    /// One version of a pipeline.
    PipelineVersion,
    /// A run.
    Run,
    /// A task of a run.
    TaskRun,
    /// One attempt of a task.
    Attempt,
    /// An object of a pipeline or a run.
    Object,
    /// An upload by URL.
    Upload,
    /// A secret.
    Secret,
    /// An API token.
    Token,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Namespace,
        Self::Pipeline,
        Self::PipelineVersion,
        Self::Run,
        Self::TaskRun,
        Self::Attempt,
        Self::Object,
        Self::Upload,
        Self::Secret,
        Self::Token,
    ];

    /// As people call it, such as `task run`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Pipeline => "pipeline",
            Self::PipelineVersion => "pipeline version",
            Self::Run => "run",
            Self::TaskRun => "task run",
            Self::Attempt => "attempt",
            Self::Object => "object",
            Self::Upload => "upload",
            Self::Secret => "secret",
            Self::Token => "token",
        }
    }

    /// As programs call it, such as `TASK_RUN`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Namespace => "NAMESPACE",
            Self::Pipeline => "PIPELINE",
            Self::PipelineVersion => "PIPELINE_VERSION",
            Self::Run => "RUN",
            Self::TaskRun => "TASK_RUN",
            Self::Attempt => "ATTEMPT",
            Self::Object => "OBJECT",
            Self::Upload => "UPLOAD",
            Self::Secret => "SECRET",
            Self::Token => "TOKEN",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
