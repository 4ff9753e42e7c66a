//! A server's scheduler backend: the cluster, seen through calls and a watch stream that fail as
//! the contract allows.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use gofer_core::pipeline::TaskSpec;
use gofer_core::scheduler::{
    ExecutionSpec, ExecutionState, LogChunk, LogCursor, LogStream, Observation, ReportedEnd,
    Scheduler, SchedulerCapabilities, WatchEvent, WorkloadIdentity,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use secrecy::SecretString;
use tokio::sync::Notify;

use crate::behaviour::{Behaviour, End};
use crate::cluster::{Cluster, Execution, Node};
use crate::link::{Link, unavailable};
use crate::model::Model;
use crate::reports::{self, Told};
use crate::rng::Rng;
use crate::world::{MS, Part, SECOND, lock};

/// What all servers share.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) seed: u64,
    pub(crate) cluster: Mutex<Cluster>,
    pub(crate) changed: Notify,
    pub(crate) model: Arc<Mutex<Model>>,
    /// Executions in flight of one server: in all, and of one pipeline.
    pub(crate) limits: (usize, Option<usize>),
}

impl Site {
    /// Whether executions are stopped at their timeouts without a server.
    pub(crate) fn holds_deadlines(&self) -> bool {
        Rng::of(self.seed, "deadlines").chance(500)
    }

    /// Where the execution comes to run. Where servers hold the deadlines, nodes' clocks are right:
    /// what is taken over is counted from what they say.
    fn node(&self, id: &ExecutionId, task: &TaskSpec) -> Node {
        let deadline_ms =
            task.timeout.map(|timeout| u64::try_from(timeout.as_millis()).expect("short"));
        let deadline_ms = deadline_ms.filter(|_| self.holds_deadlines());
        let mut rng = Rng::of(self.seed, &format!("node {id}"));
        let skew = SECOND * rng.pick(&[0, 0, 0, -40, -3, 3, 40]);
        Node { skew: if self.holds_deadlines() { skew } else { 0 }, deadline_ms }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct SimScheduler {
    pub(crate) link: Arc<Link>,
    pub(crate) site: Arc<Site>,
    /// By executions, of their ends, in this life.
    pub(crate) told: Arc<Told>,
}

impl SimScheduler {
    /// Lets the cluster reach this server's time, then looks or acts.
    fn with<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut cluster = lock(&self.site.cluster);
        let before = cluster.changes.len();
        cluster.advance(self.link.now());
        let result = act(&mut cluster);
        if cluster.changes.len() != before {
            self.site.changed.notify_waiters();
        }
        result
    }

    /// What is known of it: by the cluster, and by itself.
    fn known(&self, id: &ExecutionId) -> Observation {
        let found = self.with(|cluster| cluster.known(id).map(Execution::observed));
        found.map_or(ExecutionState::NotFound.into(), |found| self.told.of(id).unwrap_or(found))
    }

    fn take_end(&self, id: &ExecutionId, end: ReportedEnd) -> Result<(), BackendError> {
        self.with(|cluster| {
            self.told.take(id, cluster.known(id).ok_or_else(|| missing(id))?, end)
        })?;
        self.site.changed.notify_waiters();
        Ok(())
    }

    /// Waits until the cluster has seen an end that it was told of.
    async fn settle(&self, id: &ExecutionId) {
        let unsettled =
            |cluster: &mut Cluster| cluster.known(id).is_some_and(|known| !known.state.is_final());
        while self.told.of(id).is_some() && self.with(unsettled) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn task(&self, id: &ExecutionId) -> Option<TaskSpec> {
        lock(&self.site.model).spec(&id.run)?.task(&id.task).cloned()
    }

    fn start_now(&self, id: &ExecutionId) -> Result<(), BackendError> {
        let world = &self.link.world;
        let Some(task) = self.task(id) else {
            world.violate(|| format!("start of `{id}`, which is of no run"));
            return Ok(());
        };

        if self.with(|cluster| cluster.known(id).is_some()) {
            return Ok(());
        }

        lock(&self.site.model).check_start(world, id, &self.link.name);
        let holder = lock(&self.site.model).holder(&id.run).map(str::to_owned);
        world.check(
            holder.as_deref().is_some_and(|holder| self.link.name.starts_with(holder)),
            || {
                format!(
                    "`{id}` was started by {}, and the run's lease is {holder:?}'s",
                    self.link.name
                )
            },
        );

        let behaviour = Behaviour::of(self.site.seed, id, &task);
        if behaviour.end == End::Refused {
            return Err(BackendError::new(ErrorKind::Invalid, "the simulation refuses this"));
        }

        let by = |epoch: u64| format!("{}@{epoch}", self.link.name);
        let epoch = lock(&self.site.model).epoch(&id.run);
        let node = self.site.node(id, &task);
        let first = self.with(|cluster| cluster.start(id, behaviour, node, &by(epoch)));

        // A start makes timers that watchers wait for.
        self.site.changed.notify_waiters();
        world.check(first, || format!("`{id}` was started twice"));
        let cluster = lock(&self.site.cluster);
        let others = cluster
            .alive()
            .filter(|(other, _)| other.run == id.run && other.task == id.task && *other != id);
        let others: Vec<String> = others.map(|(other, _)| other.to_string()).collect();

        world.check(others.is_empty(), || {
            format!("`{id}` was started while {others:?} had not ended")
        });

        let alive =
            cluster.alive().filter(|(_, execution)| execution.by.starts_with(&self.link.name));
        let alive: Vec<(ExecutionId, String)> =
            alive.map(|(other, execution)| (other.clone(), execution.by.clone())).collect();
        drop(cluster);

        // What was taken over is in flight whether or not there is a slot; so is what this server
        // lost and took again.
        let model = lock(&self.site.model);
        let mine = alive
            .into_iter()
            .filter(|(other, started_by)| *started_by == by(model.epoch(&other.run)));
        let mine: Vec<ExecutionId> = mine.map(|(other, _)| other).collect();
        drop(model);

        let (limit, limit_per_pipeline) = self.site.limits;
        let (all, of_pipeline) =
            (mine.len(), mine.iter().filter(|other| is_same_pipeline(other, id)).count());
        world.check(
            all <= limit && limit_per_pipeline.is_none_or(|limit| of_pipeline <= limit),
            || {
                let limits = self.site.limits;
                format!(
                    "{} has {all} executions in flight, {of_pipeline} of `{id}`'s pipeline: \
                     {limits:?}",
                    self.link.name
                )
            },
        );

        Ok(())
    }
}

fn is_same_pipeline(one: &ExecutionId, other: &ExecutionId) -> bool {
    (&one.run.namespace, &one.run.pipeline) == (&other.run.namespace, &other.run.pipeline)
}

#[async_trait]
impl Scheduler for SimScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities {
            images: true,
            host: true,
            resource_limits: false,
            deadlines: self.site.holds_deadlines(),
            merged_output: false,
            isolates_namespaces: false,
        }
    }

    async fn check(&self) -> Result<String, BackendError> {
        Ok("simulated".to_owned())
    }

    async fn start(&self, id: &ExecutionId, _: &ExecutionSpec) -> Result<(), BackendError> {
        self.link.call(Part::Scheduler, &format!("start {id}"), async { self.start_now(id) }).await
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        let effect = async {
            self.with(|cluster| cluster.stop(id, grace));
            self.site.changed.notify_waiters();
            Ok(())
        };
        self.link.call(Part::Scheduler, &format!("stop {id} within {grace:?}"), effect).await
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        let effect = async {
            let found = self.known(id);
            self.link.trace(|| format!("state {id}: {found:?}"));
            Ok(found)
        };
        self.link.call(Part::Scheduler, &format!("state {id}"), effect).await
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        let effect = async {
            let (at, told) = (self.with(|cluster| cluster.changes.len()), self.told.count());
            let watch = Watch {
                link: self.link.clone(),
                scheduler: self.clone(),
                at,
                told,
                breaks_at: None,
            };
            Ok(stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) })
                .boxed())
        };
        self.link.call(Part::Scheduler, "watch", effect).await
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        _: LogCursor,
        _: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        let effect = async {
            self.settle(id).await;
            let output =
                self.with(|cluster| cluster.known(id).map(|execution| execution.output.clone()));
            let mut chunks = chunks(output.ok_or_else(|| missing(id))?);
            if !self.link.world.is_calm()
                && self.link.world.random(|rng| rng.chance(self.link.world.faults.error))
            {
                chunks.truncate(chunks.len() / 2);
                chunks.push(Err(unavailable("the log")));
            }
            Ok(stream::iter(chunks).boxed())
        };
        self.link.call(Part::Scheduler, &format!("logs {id}"), effect).await
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        let effect = async {
            self.settle(id).await;
            let removed = self.with(|cluster| cluster.remove(id));
            let refused = || {
                BackendError::new(ErrorKind::Invalid, format!("execution `{id}` has not finished"))
            };
            removed.then_some(()).ok_or_else(refused)
        };
        self.link.call(Part::Scheduler, &format!("remove {id}"), effect).await
    }

    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        Some(self)
    }
}

#[async_trait]
impl WorkloadIdentity for SimScheduler {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        let unknown = || BackendError::new(ErrorKind::NotFound, "the token names no execution");
        let id = reports::owner(token).ok_or_else(unknown)?;
        self.link.call(Part::Scheduler, &format!("identify {id}"), async { Ok(id.clone()) }).await
    }

    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let unknown = || BackendError::new(ErrorKind::NotFound, "the token names no execution");
        let id = reports::owner(token).ok_or_else(unknown)?;
        let effect = async { self.take_end(&id, end) };
        self.link.call(Part::Scheduler, &format!("report {id} {end:?}"), effect).await?;
        Ok(id)
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let effect = async { self.take_end(id, end) };
        self.link.call(Part::Scheduler, &format!("reported {id} {end:?}"), effect).await
    }
}

fn missing(id: &ExecutionId) -> BackendError {
    BackendError::new(ErrorKind::NotFound, format!("execution `{id}` does not exist"))
}

fn chunks(output: Vec<(LogStream, Vec<u8>)>) -> Vec<Result<LogChunk, BackendError>> {
    let mut at = LogCursor::default();
    let chunk = |(stream, data): (LogStream, Vec<u8>)| {
        let chunk = LogChunk { stream, offset: at.of(stream), data: Bytes::from(data), at: None };
        at.advance(&chunk);
        Ok(chunk)
    };
    output.into_iter().map(chunk).collect()
}

/// A watch stream. What it loses is followed by its end, as the contract has it.
struct Watch {
    link: Arc<Link>,
    scheduler: SimScheduler,
    at: usize,
    /// The same of what executions told.
    told: usize,
    breaks_at: Option<i64>,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchEvent, BackendError>> {
        let site = self.scheduler.site.clone();
        loop {
            self.link.survive().await;
            let changed = site.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();

            let now = self.link.now();
            if self.breaks_at.is_some_and(|at| at <= now) {
                self.link.trace(|| "watch breaks".to_owned());
                return self
                    .link
                    .world
                    .random(|rng| rng.chance(500))
                    .then(|| Err(unavailable("the watch")));
            }

            if let Some(event) = self.scheduler.told.event(self.told) {
                self.told += 1;
                self.link
                    .trace(|| format!("watch: {} told that it is {:?}", event.id, event.state));
                return Some(Ok(event));
            }

            let (event, due) = self
                .scheduler
                .with(|cluster| (cluster.changes.get(self.at).cloned(), cluster.next_due()));
            if let Some(event) = event {
                if let Some(event) = self.deliver(event, now) {
                    return Some(Ok(event));
                }
                continue;
            }

            let wake = [due, self.breaks_at].into_iter().flatten().min();
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(self.link.instant(at)).await,
                    None => std::future::pending().await,
                }
            };

            tokio::select! {
                biased;
                () = &mut changed => {}
                () = timer => {}
            }
        }
    }

    /// The event, or an earlier one again, or none.
    fn deliver(&mut self, event: WatchEvent, now: i64) -> Option<WatchEvent> {
        let world = &self.link.world;
        let faults = &world.faults;
        let draw = if world.is_calm() { 1_000 } else { world.random(|rng| rng.below(1_000)) };
        let lost = u64::from(faults.lost_events);
        let repeated = lost + u64::from(faults.repeated_events);
        let broken = repeated + u64::from(faults.broken_watch);

        match draw {
            draw if draw < lost => {
                self.at += 1;
                let blind = world
                    .random(|rng| if rng.chance(900) { rng.below(500) } else { rng.below(20_000) });
                let breaks = now + MS * i64::try_from(blind).expect("short");
                self.breaks_at = Some(self.breaks_at.map_or(breaks, |at| at.min(breaks)));
                self.link.trace(|| format!("watch loses {} {:?}", event.id, event.state));
                None
            }
            draw if draw < repeated => {
                let back = world.random(|rng| rng.index(self.at + 1));
                let again = lock(&self.scheduler.site.cluster).changes[back].clone();
                self.link.trace(|| format!("watch: again {} {:?}", again.id, again.state));
                Some(again)
            }
            draw if draw < broken => {
                self.breaks_at = Some(now);
                None
            }
            _ => {
                self.at += 1;
                self.link.trace(|| format!("watch: {} {:?}", event.id, event.state));
                Some(event)
            }
        }
    }
}
