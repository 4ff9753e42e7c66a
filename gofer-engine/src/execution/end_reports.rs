//! Ends that executions tell themselves. The server that is told may not be the one that drives the
//! run: then it passes the report on. A report is a hint: one that is lost on its way costs time,
//! and the scheduler's own word comes in any case.

use std::sync::Arc;
use std::time::Duration;

use gofer_core::journal::Hint;
use gofer_core::scheduler::ReportedEnd;
use gofer_core::{ExecutionId, RunKey};
use secrecy::SecretString;
use tokio::sync::Semaphore;

use crate::error::EngineError;
use crate::ports::Ports;

/// Reports of other servers that the scheduler is asked about at the same time; further ones are
/// dropped.
const FORWARDED_REPORTS_MAX: usize = 64;
/// How long an execution that tells its end waits until other servers are told of it.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes reports from executions and from other servers.
#[derive(Debug)]
pub(crate) struct EndReports {
    ports: Arc<Ports>,
    /// Turns of reports that other servers pass on.
    turns: Arc<Semaphore>,
}

impl EndReports {
    pub(crate) fn new(ports: Arc<Ports>) -> Self {
        Self { ports, turns: Arc::new(Semaphore::new(FORWARDED_REPORTS_MAX)) }
    }

    /// See [`crate::Engine::report_end`]. `driven` tells whether this server drives a run.
    pub(crate) async fn accept(
        &self,
        token: &SecretString,
        end: ReportedEnd,
        driven: impl Fn(&RunKey) -> bool,
    ) -> Result<(), EngineError> {
        let Ports { scheduler, journal, .. } = &*self.ports;
        let id = scheduler.require_identities()?.report_end(token, end).await?;
        if driven(&id.run) {
            return Ok(());
        }

        let told = journal.publish_hint(Hint::Reported(id.clone(), end));
        match tokio::time::timeout(FORWARD_TIMEOUT, told).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(
                    execution = %id, error = %crate::chain(&error),
                    "cannot pass a reported end on"
                )
            }
            Err(_) => tracing::info!(execution = %id, "cannot pass a reported end on in time"),
        }
        Ok(())
    }

    /// Another server was told of the end of an execution whose run is driven here. The scheduler
    /// looks at the report; it tells what it makes of it as it tells everything.
    pub(crate) fn accept_forwarded(&self, id: ExecutionId, end: ReportedEnd) {
        let Ok(turn) = self.turns.clone().try_acquire_owned() else { return };
        let ports = self.ports.clone();
        self.ports.shutdown.spawn(async move {
            let _turn = turn;
            let accept = async {
                ports.scheduler.require_identities()?.accept_forwarded_end(&id, end).await
            };
            let accepted = tokio::select! {
                biased;
                () = ports.shutdown.requested() => return,
                accepted = accept => accepted,
            };

            if let Err(error) = accepted {
                tracing::info!(
                    execution = %id, error = %error.chain(),
                    "an end that another server was told of is not taken"
                );
            }
        });
    }
}
