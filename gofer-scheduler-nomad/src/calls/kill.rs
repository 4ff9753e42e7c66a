//! The end of a stop's grace.
//!
//! Nomad knows one grace per job, fixed when it is registered. A shorter one is kept here: when it
//! is over, the processes get SIGKILL. If this process is gone by then, Nomad's own, longer one
//! applies.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::calls::job_calls::JobCalls;
use crate::calls::key::JobKey;
use crate::http::client::Query;
use crate::http::error::Failure;
use crate::http::types::Alloc;
use crate::job::names::MAIN;
use crate::state;

/// The first pause between two looks at what is being stopped; each further one is longer.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How long after Nomad's own grace a job that is still there is left to Nomad.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// Kills what is left of a stopped job after the grace, in the background.
pub(crate) fn kill_after(calls: &Arc<JobCalls>, key: JobKey, grace: Duration) {
    if grace >= calls.config.max_grace {
        return;
    }
    let calls = calls.clone();
    tokio::spawn(async move {
        tokio::time::sleep(grace).await;
        let limit = calls.config.max_grace + KILL_TIMEOUT;
        // What is left after that is up to Nomad.
        let _ = tokio::time::timeout(limit, kill(&calls, &key)).await;
    });
}

async fn kill(calls: &JobCalls, key: &JobKey) {
    let mut pause = FIRST_PAUSE;
    loop {
        match calls.allocs(key).await {
            Ok(allocs) if !allocs.is_empty() && allocs.iter().all(state::is_terminal) => return,
            Ok(allocs) => {
                // Before Nomad wants it stopped, a service would only be started again.
                for alloc in allocs.iter().filter(|alloc| {
                    alloc.client_status == "running" && alloc.desired_status == "stop"
                }) {
                    if let Err(failure) = send_kill(calls, key, alloc).await
                        && failure.is_denied()
                    {
                        let error =
                            failure.backend(format!("the job `{}` cannot be killed", key.job_id));
                        tracing::warn!(error = %error.chain(), "a stop takes the grace that the \
                                                                job was registered with");
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = %error.chain(), "what is being stopped cannot be seen yet")
            }
        }

        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn send_kill(calls: &JobCalls, key: &JobKey, alloc: &Alloc) -> Result<(), Failure> {
    let path = format!("/v1/client/allocation/{}/signal", alloc.id);
    let body = json!({"Task": MAIN, "Signal": "SIGKILL"});
    calls.client.put::<Value>(&path, &Query::namespace(&key.namespace), &body).await.map(|_| ())
}
