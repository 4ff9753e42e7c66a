//! Carries out what a decision leads to, once it is committed: starts, questions and stops at the
//! scheduler, each in a task of its own, and the archiving of a log.

use std::time::Duration;

use gofer_core::run::TaskState;
use gofer_core::{Attempt, ExecutionId, TaskId};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::driver::{Driving, Starting};
use crate::execution::observe;
use crate::execution::start::Start;
use crate::logs::archive_queue::Finished;
use crate::logs::mask_source::MaskSource;
use crate::rules::{Effect, Machine};

impl Driving {
    pub(super) fn act(&mut self, machine: &Machine, effect: Effect) {
        match effect {
            Effect::Start(task, attempt) => self.start(machine, &task, attempt, false),
            Effect::Restart(task, attempt) => self.start(machine, &task, attempt, true),
            Effect::Observe(task, attempt) => {
                let id = self.id(&task, attempt);
                if machine.task(&task).is_some_and(|(task, _)| task.state == TaskState::Running) {
                    self.parts.slots.occupy(&id);
                }
                self.observe(id);
            }
            Effect::Confirm(task, attempt) => self.confirm(self.id(&task, attempt)),
            Effect::Stop(task, attempt, grace) => self.stop(self.id(&task, attempt), grace),
            Effect::Archive(task, attempt) => {
                let id = self.id(&task, attempt);
                self.starts.remove(&id);
                self.parts.slots.release(&id);
                let source =
                    MaskSource { spec: machine.spec().clone(), run: machine.run().clone() };
                self.parts.archive.send(Finished { id, source, left_behind: false });
            }
        }
    }

    fn start(&mut self, machine: &Machine, task: &TaskId, attempt: Attempt, again: bool) {
        let id = self.id(task, attempt);
        if self.starts.get(&id).is_some_and(|start| !start.done.is_cancelled()) {
            return;
        }

        if again {
            // It may be in flight; if not, the slot is given back.
            self.parts.slots.occupy(&id);
        }

        self.serial += 1;
        let (cancel, done) = (self.cancelled.child_token(), CancellationToken::new());
        let start = Start {
            serial: self.serial,
            ports: self.parts.ports.clone(),
            slots: self.parts.slots.clone(),
            id: id.clone(),
            spec: machine.spec().clone(),
            run: machine.run().clone(),
            driver: self.driver.clone(),
            deadline: self.deadline.clone(),
            cancel: cancel.clone(),
            forgotten: machine.may_be_forgotten(task),
        };

        let guard = done.clone().drop_guard();
        spawn(async move {
            let _done = guard;
            start.run(again).await;
        });

        self.starts.insert(id, Starting { serial: self.serial, known: false, cancel, done });
    }

    fn observe(&self, id: ExecutionId) {
        let (ports, driver, starts) = (self.parts.ports.clone(), self.driver.clone(), self.serial);
        let start_done = self.starts.get(&id).map(|start| start.done.clone());
        spawn(async move {
            // Asked before the start took effect and answered after it, "not found" would mean
            // "lost".
            if let Some(done) = start_done {
                done.cancelled().await;
            }
            observe::observe(&ports, &id, starts, &driver).await;
        });
    }

    /// Finds out whether the execution still runs, or waits, when its deadline has come.
    fn confirm(&self, id: ExecutionId) {
        let (ports, driver, starts) = (self.parts.ports.clone(), self.driver.clone(), self.serial);
        let waits_here = self.starts.get(&id).is_some_and(|start| !start.done.is_cancelled());
        spawn(async move {
            if waits_here {
                observe::still_starting(&ports, &id, starts, &driver).await;
            } else {
                observe::observe(&ports, &id, starts, &driver).await;
            }
        });
    }

    fn stop(&self, id: ExecutionId, grace: Duration) {
        let (ports, driver, starts) = (self.parts.ports.clone(), self.driver.clone(), self.serial);
        let start_done = self.starts.get(&id).map(|start| {
            start.cancel.cancel();
            start.done.clone()
        });

        if start_done.is_none() {
            self.parts.slots.occupy(&id);
        }

        spawn(async move {
            // Without this, a start that lands after its stop would run for ever.
            if let Some(done) = start_done {
                done.cancelled().await;
            }
            observe::stop(&ports, &id, grace, starts, &driver).await;
        });
    }

    fn id(&self, task: &TaskId, attempt: Attempt) -> ExecutionId {
        ExecutionId { run: self.lease.run.clone(), task: task.clone(), attempt }
    }
}

/// Work of a run, whose log lines carry the run's span.
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work.in_current_span());
}
