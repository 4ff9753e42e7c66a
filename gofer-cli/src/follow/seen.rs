//! How far a run was seen, and what a signal does to the following.

use std::collections::BTreeMap;

use gofer_proto::v1::{Run, TaskRun};

/// What Ctrl-C does, and what else asks the command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// Ends the following; the run goes on.
    Leave,
    /// Cancels the run, the second time by force; the third time ends the following.
    #[cfg_attr(
        not(feature = "server"),
        expect(dead_code, reason = "only `gofer local` cancels what it follows")
    )]
    Cancel,
}

/// A run as far as it has been seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) run: Run,
    /// By task id.
    pub(crate) tasks: BTreeMap<String, TaskRun>,
}
