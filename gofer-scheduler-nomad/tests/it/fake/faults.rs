//! The switches for what goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

/// Which requests.
#[derive(Debug, Clone)]
pub(crate) struct When {
    /// Such as `POST`; empty is any.
    pub(crate) method: &'static str,
    /// What the path contains.
    pub(crate) path: &'static str,
}

/// What is done with a request in place of answering it.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Answers with this code and text, and does nothing.
    Refuse(u16, &'static str),
    /// Does it, and answers with this code and text.
    RefuseAfterCommit(u16, &'static str),
    /// Closes the connection, and does nothing.
    Cut,
    /// Does it, and closes the connection.
    CutAfterCommit,
    /// Does it, and answers after this time.
    Late(Duration),
}

/// What becomes of tasks with an image.
#[derive(Debug, Clone)]
pub(crate) enum Image {
    /// The driver's words when it tries to have the image.
    PullFails(&'static str),
    /// A task that is killed with SIGKILL was killed by the kernel for want of memory, and the
    /// driver says so, or does not.
    OutOfMemory { told: bool },
}

/// All switches; as default, nothing goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) no_leader: bool,
    pub(crate) rules: Vec<(When, usize, Action)>,
    /// Every item of an event stream comes twice.
    pub(crate) duplicate_events: bool,
    /// Of two items of an event stream that are there at once, the later one comes first.
    pub(crate) reorder_events: bool,
    /// Event streams say nothing, not even that they live.
    pub(crate) silent_streams: bool,
    /// What an allocation writes last arrives this long after the allocation has ended.
    pub(crate) late_logs: Option<Duration>,
    /// So many more lists of a job's allocations are as they were before their last change.
    pub(crate) behind: usize,
    /// So many more commands in tasks are refused, as if the node had not started the task yet.
    pub(crate) not_started: usize,
    /// Variables cannot be read by the tasks they are for, as when the servers are out of reach.
    pub(crate) hide_variables: bool,
    /// Whatever is finished is collected at once.
    pub(crate) collect_at_once: bool,
    /// So many more processes end in the moment in which their client agent is killed, which starts
    /// them again.
    pub(crate) restarts_after_end: usize,
    /// A client agent that did not find its processes again does not start them yet.
    pub(crate) holds_restarts: bool,
    /// A client agent is killed before it has written down that it started a process.
    pub(crate) forgets_starts: bool,
    /// So many more requests for files are answered by a client agent that has not read yet what it
    /// is to know.
    pub(crate) restoring: usize,
    /// Images that are not as they should be.
    pub(crate) images: BTreeMap<&'static str, Image>,
}

impl Faults {
    /// The action for a request, whose rule is used up by one.
    pub(crate) fn take(&mut self, method: &str, path: &str) -> Option<Action> {
        let matches = |when: &When| {
            (when.method.is_empty() || when.method == method) && path.contains(when.path)
        };
        let (_, times, action) =
            self.rules.iter_mut().find(|(when, times, _)| *times > 0 && matches(when))?;
        *times -= 1;
        Some(action.clone())
    }
}
