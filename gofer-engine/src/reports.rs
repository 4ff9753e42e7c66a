//! Ends that executions tell themselves. The server that is told may not be the one that drives the
//! run: then it passes the report on. A report is a hint: one that is lost on its way costs time,
//! and the scheduler's own word comes in any case.

use std::sync::Arc;
use std::time::Duration;

use gofer_core::ExecutionId;
use gofer_core::journal::Hint;
use gofer_core::scheduler::ReportedEnd;
use secrecy::SecretString;

use crate::engine::Shared;
use crate::error::EngineError;

/// Reports of other servers that the scheduler is asked about at the same time; further ones are
/// dropped.
pub(crate) const AT_ONCE: usize = 64;
/// How long whoever tells its end waits until others are told of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// See [`crate::Engine::report_end`].
pub(crate) async fn take(
    shared: &Shared,
    token: &SecretString,
    end: ReportedEnd,
) -> Result<(), EngineError> {
    let id = shared.scheduler.require_identities()?.report_end(token, end).await?;
    if shared.runs.contains(&id.run) {
        return Ok(());
    }
    let passed_on = shared.journal.publish_hint(Hint::Reported(id.clone(), end));
    match tokio::time::timeout(PATIENCE, passed_on).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(execution = %id, error = %crate::chain(&error), "cannot pass a reported end on")
        }
        Err(_) => tracing::info!(execution = %id, "cannot pass a reported end on in time"),
    }
    Ok(())
}

/// Another server was told of an end. If the run is driven here, the scheduler looks at the report;
/// it tells what it makes of it as it tells everything.
pub(crate) fn hear(shared: &Arc<Shared>, id: ExecutionId, end: ReportedEnd) {
    if !shared.runs.contains(&id.run) {
        return;
    }

    let Ok(turn) = shared.reports.clone().try_acquire_owned() else { return };
    let looking = shared.clone();
    shared.tasks.spawn(async move {
        let _turn = turn;
        let look =
            async { looking.scheduler.require_identities()?.accept_forwarded_end(&id, end).await };
        let looked = tokio::select! {
            biased;
            () = looking.stop.cancelled() => return,
            looked = look => looked,
        };

        if let Err(error) = looked {
            tracing::info!(execution = %id, error = %error.chain(), "an end that another server \
                                                                     was told of is not taken");
        }
    });
}
