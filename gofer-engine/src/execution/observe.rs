//! Finds out what became of an execution, and stops it. Each repeats while the backend is
//! unavailable, and sends the run's driver what it learned.

use std::ops::ControlFlow;
use std::time::Duration;

use gofer_core::ExecutionId;
use gofer_core::scheduler::Observation;

use crate::inbox::{Asked, Inbox, Message};
use crate::ports::Ports;
use crate::retry_loop::retry_until;

/// How long after its grace the end of a stopped execution is overdue.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for the state until there is an answer, and sends it. Returns whether nothing more is to be
/// learned: it was a final one, or the driver has ended.
pub(crate) async fn observe(ports: &Ports, id: &ExecutionId, starts: u64, driver: &Inbox) -> bool {
    let asked = Asked { at: ports.clock.now(), starts };
    let Some(found) = state(ports, id, driver).await else { return true };
    let is_final = found.state.is_final();
    answer(id, found, asked, driver).await;
    is_final
}

/// Tells the driver that the execution waits in this server, for a slot or for an answer of a
/// store: that counts as waiting to start, as the scheduler's own queue does.
pub(crate) async fn still_starting(ports: &Ports, id: &ExecutionId, starts: u64, driver: &Inbox) {
    let asked = Asked { at: ports.clock.now(), starts };
    answer(id, Observation::queued(""), asked, driver).await;
}

/// The state, asked for until there is an answer or the driver has ended.
pub(super) async fn state(ports: &Ports, id: &ExecutionId, driver: &Inbox) -> Option<Observation> {
    if driver.is_closed() {
        return None;
    }
    retry_until(("state", id), driver.closed(), || async {
        match ports.scheduler.state(id).await {
            Ok(found) => ControlFlow::Break(found),
            Err(error) => {
                tracing::warn!(
                    execution = %id, error = %error.chain(),
                    "cannot learn the execution's state yet, will retry"
                );
                ControlFlow::Continue(())
            }
        }
    })
    .await
}

/// Stops the execution. Its end comes over the watch, or at once when it was over or never begun.
pub(crate) async fn stop(
    ports: &Ports,
    id: &ExecutionId,
    grace: Duration,
    starts: u64,
    driver: &Inbox,
) {
    let stopped = retry_until(("stop", id), driver.closed(), || async {
        let Err(error) = ports.scheduler.stop(id, grace).await else {
            return ControlFlow::Break(());
        };
        tracing::warn!(execution = %id, error = %error.chain(), "cannot stop the execution yet, \
                                                                 will retry");
        ControlFlow::Continue(())
    });
    if stopped.await.is_none() {
        return;
    }

    // The end is on the watch. Where that is late, the scheduler is asked: a stopped attempt keeps
    // its run from ending.
    while !observe(ports, id, starts, driver).await {
        tokio::select! {
            () = tokio::time::sleep(grace + STOP_TIMEOUT) => {}
            () = driver.closed() => return,
        }
    }
}

pub(super) async fn answer(id: &ExecutionId, found: Observation, asked: Asked, driver: &Inbox) {
    // A driver that has ended needs no answer: the next one loads the run and asks for itself.
    driver.send(Message::Answered(id.clone(), found, asked)).await;
}
