//! What this process keeps from the other processes of its user, and what it began with.

use std::sync::OnceLock;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::confinement::Limit;

/// What tasks inherit of a server's limits, whatever the server makes of its own.
const INHERITED: [Resource; 2] = [Resource::Core, Resource::Nofile];

static AT_START: OnceLock<Vec<Limit>> = OnceLock::new();

/// Closes this process to others of its user: no memory, environment or descriptor of it can be
/// read through `/proc`, no debugger attaches, and a crash leaves no core with secrets in it. Also
/// notes the limits that tasks get, so call it first in `main`.
///
/// An exec undoes the first half. Where the kernel refuses, the process goes on as open as it was.
pub fn close_process() {
    note_limits();
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let maximum = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

/// Notes the limits that tasks get, unless they are noted already: call it before the process
/// changes its own.
pub fn note_limits() {
    limits_at_start();
}

/// The limits that this process had when they were noted, or, if they were not, has now.
pub(crate) fn limits_at_start() -> &'static [Limit] {
    AT_START.get_or_init(|| {
        INHERITED.map(|resource| Limit::new(resource, getrlimit(resource))).to_vec()
    })
}
