//! Executions that tell their end themselves, before the scheduler knows: to one server, which
//! forgets it with its life.

use std::collections::BTreeMap;
use std::sync::Mutex;

use gofer_core::scheduler::{ExecutionState, Observation, ReportedEnd, WatchEvent};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use gofer_engine::EngineError;
use secrecy::{ExposeSecret, SecretString};

use crate::cluster::Execution;
use crate::rng::Rng;
use crate::server::{Remains, Server};
use crate::world::lock;

/// How often an execution tries to tell its end.
const TRIES: u32 = 3;

/// What one life of a server was told.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ends: BTreeMap<ExecutionId, Observation>,
    /// In the order they came, for watchers.
    events: Vec<WatchEvent>,
}

impl Told {
    /// What was told of the execution.
    pub(crate) fn of(&self, id: &ExecutionId) -> Option<Observation> {
        lock(&self.0).ends.get(id).cloned()
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.0).events.len()
    }

    pub(crate) fn event(&self, at: usize) -> Option<WatchEvent> {
        lock(&self.0).events.get(at).cloned()
    }

    /// Believes it, unless what the scheduler knows contradicts it.
    pub(crate) fn take(
        &self,
        id: &ExecutionId,
        known: &Execution,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let state = ExecutionState::Exited { code: end.code, oom: false, signal: end.signal };
        if known.state == state || self.of(id).is_some() {
            return Ok(());
        }
        if known.state.is_final() || known.is_stopping() {
            return Err(BackendError::new(
                ErrorKind::Invalid,
                format!("`{id}` is {:?}", known.state),
            ));
        }
        let mut inner = lock(&self.0);
        inner.ends.insert(id.clone(), Observation { state: state.clone(), times: end.times });
        inner.events.push(WatchEvent { id: id.clone(), state, times: end.times });
        Ok(())
    }
}

/// The token that the execution was given.
pub(crate) fn token(id: &ExecutionId) -> SecretString {
    format!("token of {id}").into()
}

pub(crate) fn owner(token: &SecretString) -> Option<ExecutionId> {
    token.expose_secret().strip_prefix("token of ")?.parse().ok()
}

/// Lets those who have ended by now tell a server, whichever they reach, and some of them two.
pub(crate) fn deliver(now: i64, remains: &Remains, servers: &[&Server], rng: &mut Rng) {
    let ends = lock(&remains.site.cluster).take_reports(now);
    let servers: Vec<&Server> =
        servers.iter().filter(|server| server.engine().is_some()).copied().collect();

    for (id, end) in ends {
        for _ in 0..if rng.chance(100) { 2 } else { 1 } {
            if servers.is_empty() {
                continue;
            }

            let server = servers[rng.index(servers.len())];
            let engine = server.engine().expect("it was looked at");
            let (link, id) = (server.link.clone(), id.clone());
            server.runtime.spawn(async move {
                for _ in 0..TRIES {
                    let told = engine.report_end(&token(&id), end).await;
                    link.trace(|| format!("{id} tells its end: {told:?}"));
                    if !matches!(told, Err(EngineError::Backend(error)) if error.is_retryable()) {
                        return;
                    }
                }
            });
        }
    }
}
