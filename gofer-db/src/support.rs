//! What both engines and the handle need: followers of the last event, spawned operations, and this
//! process's name.

use tokio::sync::watch;
use tokio::task::JoinError;

use crate::error::DbError;

/// Tells followers of an event; the number they see only grows.
pub(crate) fn note(last_event: &watch::Sender<u64>, id: u64) {
    last_event.send_if_modified(|known| {
        let newer = id > *known;
        *known = id.max(*known);
        newer
    });
}

/// As [`note`], in two steps: the number is there to be read before anybody is told.
pub(crate) fn note_silently(last_event: &watch::Sender<u64>, id: u64) {
    last_event.send_if_modified(|known| {
        *known = id.max(*known);
        false
    });
}

/// How this process is named to another server that finds the database taken.
pub(crate) fn this_process() -> String {
    let system = rustix::system::uname();
    format!("process {} on {}", std::process::id(), system.nodename().to_string_lossy())
}

/// What a spawned operation came to.
pub(crate) fn joined<T>(result: Result<Result<T, DbError>, JoinError>) -> Result<T, DbError> {
    result.unwrap_or_else(|error| Err(DbError::internal("a database operation broke off", error)))
}
