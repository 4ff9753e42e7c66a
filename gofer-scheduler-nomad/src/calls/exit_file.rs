//! What the shell, or the supervisor, before a task's program leaves beside the log for what an
//! exit code cannot say.

use std::time::Duration;

use gofer_core::scheduler::ExecutionTimes;
use gofer_core::{BackendError, Timestamp};
use reqwest::Method;
use serde::Deserialize;

use crate::calls::job_calls::JobCalls;
use crate::calls::key::JobKey;
use crate::http::client::Query;
use crate::http::types::Alloc;

const PATH: &str = "alloc/gofer-exit.json";
/// Longer ones are nobody's of ours.
const LIMIT_BYTES: &str = "4096";

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The program was never started, for this reason.
    NotStarted(String),
    /// The program had begun before, and was not started again.
    BegunBefore,
    /// The exit code is the program's own. A supervisor tells its times, too.
    Ended(ExecutionTimes),
    /// Its node is out of reach.
    OutOfReach,
}

/// A supervisor writes JSON.
#[derive(Debug, Deserialize)]
struct ExitFile {
    failed: Option<String>,
    #[serde(default)]
    again: bool,
    /// Since 1970.
    started_us: Option<i64>,
    ended_us: Option<i64>,
    ran_us: Option<u64>,
}

impl ExitFile {
    fn times(&self) -> ExecutionTimes {
        ExecutionTimes {
            started_at: self.started_us.map(Timestamp),
            ended_at: self.ended_us.map(Timestamp),
            ran: self.ran_us.map(Duration::from_micros),
        }
    }
}

/// Reads what was left in an allocation.
pub(crate) async fn read(
    calls: &JobCalls,
    key: &JobKey,
    own: &Alloc,
) -> Result<Left, BackendError> {
    let query = Query::namespace(&key.namespace)
        .with("path", PATH)
        .with("offset", "0")
        .with("limit", LIMIT_BYTES);
    let path = format!("/v1/client/fs/readat/{}", own.id);
    match calls.client.bytes(Method::GET, &path, &query, None).await {
        Ok(answer) => Ok(said(&answer.value)),
        Err(failure) if failure.is_out_of_reach() => Ok(Left::OutOfReach),
        Err(failure) if failure.is_transient() => {
            Err(failure.backend(format!("the end of `{}` cannot be read", key.job_id)))
        }
        // There is none, or nothing of the allocation is left.
        Err(_) => Ok(Left::Ended(ExecutionTimes::UNKNOWN)),
    }
}

/// A shell, which cannot quote, writes a word, or a program's name.
fn said(file: &[u8]) -> Left {
    if file == b"again" {
        return Left::BegunBefore;
    }

    if let Some(name) = file.strip_prefix(b"not found: ") {
        return Left::NotStarted(format!(
            "binary `{}` could not be found",
            String::from_utf8_lossy(name)
        ));
    }

    match serde_json::from_slice::<ExitFile>(file) {
        Ok(ExitFile { again: true, .. }) => Left::BegunBefore,
        Ok(ExitFile { failed: Some(why), .. }) => Left::NotStarted(why),
        Ok(ended) => Left::Ended(ended.times()),
        Err(_) => Left::Ended(ExecutionTimes::UNKNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hands_are_read() {
        let at = |second: i64| Some(Timestamp(second * 1_000_000));
        let times = ExecutionTimes {
            started_at: at(1),
            ended_at: at(3),
            ran: Some(Duration::from_millis(1_500)),
        };

        for (file, expected) in [
            ("again", Left::BegunBefore),
            (r#"{"again":true}"#, Left::BegunBefore),
            ("not found: x", Left::NotStarted("binary `x` could not be found".to_owned())),
            (r#"{"failed":"why"}"#, Left::NotStarted("why".to_owned())),
            (r#"{"exit_code":3,"signal":null}"#, Left::Ended(ExecutionTimes::UNKNOWN)),
            (
                r#"{"exit_code":3,"started_us":1000000,"ended_us":3000000,"ran_us":1500000}"#,
                Left::Ended(times),
            ),
            ("again?", Left::Ended(ExecutionTimes::UNKNOWN)),
        ] {
            assert_eq!(said(file.as_bytes()), expected, "{file}");
        }
    }
}
