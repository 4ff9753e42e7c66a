//! The end of a stop's grace.
//!
//! Nomad knows one grace per job, fixed when it is registered. A shorter one is kept here: when it
//! is over, the processes get SIGKILL. If this process is gone by then, Nomad's own, longer one
//! applies.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::calls::{Place, Shared};
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
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills what is left of a stopped job after the grace, in the background.
pub(crate) fn kill_after(shared: &Arc<Shared>, place: Place, grace: Duration) {
    if grace >= shared.config.max_grace {
        return;
    }
    let shared = shared.clone();
    tokio::spawn(async move {
        tokio::time::sleep(grace).await;
        let limit = shared.config.max_grace + PATIENCE;
        // What is left after that is up to Nomad.
        let _ = tokio::time::timeout(limit, kill(&shared, &place)).await;
    });
}

async fn kill(shared: &Shared, place: &Place) {
    let mut pause = FIRST_PAUSE;
    loop {
        match shared.allocs(place).await {
            Ok(allocs) if !allocs.is_empty() && allocs.iter().all(state::is_terminal) => return,
            Ok(allocs) => {
                // Before Nomad wants it stopped, a service would only be started again.
                for alloc in allocs.iter().filter(|alloc| {
                    alloc.client_status == "running" && alloc.desired_status == "stop"
                }) {
                    if let Err(failure) = send_kill(shared, place, alloc).await
                        && failure.is_denied()
                    {
                        let error =
                            failure.backend(format!("the job `{}` cannot be killed", place.job_id));
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

async fn send_kill(shared: &Shared, place: &Place, alloc: &Alloc) -> Result<(), Failure> {
    let path = format!("/v1/client/allocation/{}/signal", alloc.id);
    let body = json!({"Task": MAIN, "Signal": "SIGKILL"});
    shared.client.put::<Value>(&path, &Query::namespace(&place.namespace), &body).await.map(|_| ())
}
