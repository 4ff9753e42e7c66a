//! The 18 cases that were known to go wrong with Nomad, by number; those that a real agent can show
//! run there, too.

mod access;
mod again;
mod blame;
mod drivers;
mod exec;
pub(crate) mod identities;
mod logs;
mod nodes;
mod outcomes;
mod reach;
mod registration;
mod reports;
mod spec;
mod stream;

use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_conformance::within;
use gofer_core::scheduler::{ExecutionState, Scheduler, WatchEvent};
use gofer_core::{BackendError, ExecutionId};
use gofer_scheduler_nomad::NomadScheduler;

/// A watcher, and everything it was told.
struct Watcher {
    stream: BoxStream<'static, Result<WatchEvent, BackendError>>,
    told: Vec<WatchEvent>,
}

impl Watcher {
    async fn of(scheduler: &NomadScheduler) -> Self {
        Self { stream: scheduler.watch().await.expect("watch"), told: Vec::new() }
    }

    /// Waits until an execution was told to have ended.
    async fn end_of(&mut self, id: &ExecutionId) -> ExecutionState {
        loop {
            let ended = self.told.iter().find(|event| event.id == *id && event.state.is_final());
            if let Some(event) = ended {
                return event.state.clone();
            }
            self.next(&format!("the watcher is told of the end of `{id}`")).await;
        }
    }

    /// Takes the next event.
    async fn next(&mut self, what: &str) {
        let event = within(&format!("{what}; told: {:?}", self.told), self.stream.next()).await;
        self.told.push(event.expect("the stream goes on").expect("an event"));
    }
}
