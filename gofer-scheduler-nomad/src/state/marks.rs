//! What a job's own metadata says of how its task is run: the configuration may have changed since.

use std::ops::RangeInclusive;

use gofer_core::scheduler::{ExecutionKind, ExecutionState};

use crate::http::types::Job;
use crate::job::guard;
use crate::job::names::{META_CONTAINER, META_GUARDED, META_KIND, META_SECRETS, META_SUPERVISED};

/// What a shell, and the supervisor, exit with when there is no program to run.
const NO_PROGRAM: RangeInclusive<i32> = 126..=127;

/// The kind of execution that a job is.
pub(crate) fn kind(job: &Job) -> ExecutionKind {
    match job.meta.get(META_KIND).map(String::as_str) {
        Some("service") => ExecutionKind::Service,
        _ => ExecutionKind::Task,
    }
}

/// How many variables an execution's secrets take.
pub(crate) fn secret_count(job: &Job) -> usize {
    job.meta.get(META_SECRETS).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// How a job's task is run, by the job's own metadata: the configuration may have changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    /// A shell or a supervisor sees to it that its program is started once.
    pub(crate) guarded: bool,
    /// A supervisor runs it, and may report its end.
    pub(crate) supervised: bool,
    /// It runs in a container.
    pub(crate) in_container: bool,
}

impl Marks {
    pub(crate) fn of(job: &Job) -> Self {
        let has = |key: &str| job.meta.contains_key(key);
        Self {
            guarded: has(META_GUARDED),
            supervised: has(META_SUPERVISED),
            in_container: has(META_CONTAINER),
        }
    }

    /// Whether what was left beside the log says more of an end: that the program was not found,
    /// that it had begun before, or, of a supervised one, its times.
    pub(crate) fn leave_word(self, state: &ExecutionState) -> bool {
        let ExecutionState::Exited { code, signal, .. } = state else { return false };
        let no_program = !self.in_container && NO_PROGRAM.contains(code);
        let unclear = signal.is_none() && (no_program || *code == guard::BEGUN_BEFORE);
        self.supervised || (self.guarded && unclear)
    }
}
