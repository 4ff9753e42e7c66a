//! The limit of open files that tasks get. A server may raise its own for its connections; a program that uses `select`, or
//! closes every descriptor there could be, does not expect that.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const ARGUMENT: &str = "--open-files=";

/// The argument of a [`crate::Launcher`] by which supervisors, and so tasks, have this soft limit.
#[must_use]
pub fn argument(limit: u64) -> String {
    format!("{ARGUMENT}{limit}")
}

/// Sets the limit of this process to what its arguments say.
pub(crate) fn restore() {
    let mut arguments = std::env::args();
    let limit: Option<u64> = arguments.find_map(|argument| argument.strip_prefix(ARGUMENT)?.parse().ok());
    let Some(limit) = limit else { return };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(limit, |maximum| limit.min(maximum)));
    // A task with another limit than usual is better than none.
    let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
}
