//! One seed from beginning to end.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, Once};

use futures::{FutureExt, TryStreamExt};
use gofer_conformance::{MemoryJournal, MemoryObjectStore, MemorySecretStore};
use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::journal::Logs;
use gofer_core::object_store::PutOptions;
use gofer_core::scheduler::{LogCursor, LogStream};
use gofer_core::secret_store::SecretStore;
use gofer_core::{ExecutionId, PipelineId, SecretPath, Timestamp};
use gofer_engine::EngineConfig;
use secrecy::SecretString;
use tokio::sync::Notify;

use crate::clients::{Clients, namespace};
use crate::cluster::Cluster;
use crate::hints::Hints;
use crate::model::Model;
use crate::oracle;
use crate::plan::{Ask, Life, Plan};
use crate::reports;
use crate::rng::Rng;
use crate::rules;
use crate::scheduler::Site;
use crate::server::{Remains, Server};
use crate::world::{MS, SECOND, World, lock};

/// Everything must be over by then.
const LONGEST: i64 = 3_600 * SECOND;
/// A server alone is looked at this often.
const STEP: i64 = 500 * MS;

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    pub(crate) trace: Vec<String>,
}

/// A place a server lives in, life after life.
struct Slot {
    name: String,
    lives: Vec<Life>,
    lived: usize,
    server: Option<Server>,
    boots_at: i64,
    dies_at: Option<i64>,
    paused: bool,
}

struct Sim {
    plan: Plan,
    remains: Remains,
    slots: Vec<Slot>,
    clients: Clients,
    rng: Rng,
    /// Whom executions tell their ends.
    reporters: Rng,
    now: i64,
}

pub(crate) fn simulate(seed: u64, traced: bool) -> Outcome {
    catch_panics();
    let mut sim = Sim::new(seed, traced);
    sim.run();
    if sim.remains.world.violation().is_none() {
        sim.look_back();
    }
    let world = sim.remains.world.clone();
    drop(sim);
    Outcome { violation: world.violation(), trace: world.take_trace() }
}

impl Sim {
    fn new(seed: u64, traced: bool) -> Self {
        let plan = Plan::of(seed);
        let world = Arc::new(World::new(seed, &plan, traced));
        world.trace(0, "plan", || {
            let Plan {
                lease_ttl,
                max_executions,
                max_executions_per_pipeline,
                max_active_runs,
                max_changes,
                ..
            } = &plan;
            format!(
                "leases of {lease_ttl:?}, {max_executions} executions, \
                 {max_executions_per_pipeline:?} of a pipeline, {max_active_runs} runs, \
                 {max_changes} changes, clocks wrong by {:?}, {:?}",
                plan.skews, plan.faults
            )
        });

        let longest_outage =
            plan.outages.iter().map(|outage| outage.until - outage.from).sum::<i64>();
        let slow = i64::try_from(plan.faults.slow_ms + plan.faults.usual_ms).expect("short");

        // One that stood still may go on where it was, if nobody else took its runs: they may have
        // stood still, too.
        let stood_still =
            plan.pauses.iter().map(|pause| pause.until - pause.from).max().unwrap_or(0);
        let unaware = 20 * MS * slow + longest_outage + stood_still + 15 * SECOND;
        let model = Model { unaware, ..Model::default() };
        let model = Arc::new(Mutex::new(model));
        let (cluster, changed) = (Mutex::new(Cluster::default()), Notify::new());
        let limits = (plan.max_executions, plan.max_executions_per_pipeline);
        let site = Site { seed, cluster, changed, model: model.clone(), limits };
        let journal = Arc::new(MemoryJournal::new());
        let remains = Remains {
            world,
            site: Arc::new(site),
            hints: Arc::new(Hints::new(journal.clone())),
            journal,
            objects: Arc::new(MemoryObjectStore::new()),
            secrets: Arc::new(MemorySecretStore::new()),
            model,
        };

        for pipeline in &plan.pipelines {
            remains.journal.add_pipeline(&namespace(), pipeline.clone(), true);
            remains.put_secret(&pipeline.name);
        }

        let slot = |(at, lives): (usize, &Vec<Life>)| Slot {
            name: ["a", "b"][at].to_owned(),
            lives: lives.clone(),
            lived: 0,
            server: None,
            boots_at: 0,
            dies_at: None,
            paused: false,
        };

        let slots = plan.lives.iter().enumerate().map(slot).collect();
        let clients = Clients::new(seed, plan.actions.clone());
        Self {
            plan,
            remains,
            slots,
            clients,
            rng: Rng::of(seed, "steps"),
            reporters: Rng::of(seed, "reporters"),
            now: 0,
        }
    }

    fn run(&mut self) {
        while self.now < LONGEST {
            self.boot();
            self.pause();
            self.kill();
            let servers: Vec<&Server> = self
                .slots
                .iter()
                .filter(|slot| !slot.paused)
                .filter_map(|slot| slot.server.as_ref())
                .collect();

            self.clients.ask(self.now, &self.remains, &servers);
            reports::deliver(self.now, &self.remains, &servers, &mut self.reporters);
            self.step();
            if let Some(panic) = PANIC.with_borrow_mut(Option::take) {
                self.remains.world.violate(|| format!("panic: {panic}"));
            }

            if self.remains.world.violation().is_some() || self.is_over() {
                return;
            }
        }
        self.remains.world.violate(|| format!("not over after an hour: {}", self.leftovers()));
    }

    fn boot(&mut self) {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if slot.server.is_some() || slot.boots_at > self.now {
                continue;
            }

            let life = slot.lives.get(slot.lived).cloned().unwrap_or_default();
            slot.lived += 1;
            slot.dies_at = life.die_after.map(|after| self.now + after);
            let config = EngineConfig {
                server_id: slot.name.clone(),
                lease_ttl: self.plan.lease_ttl,
                max_executions: self.plan.max_executions,
                max_executions_per_pipeline: self.plan.max_executions_per_pipeline,
                max_active_runs: self.plan.max_active_runs,
                max_changes: self.plan.max_changes,
                ..EngineConfig::default()
            };

            slot.server = Some(Server::boot(
                &self.remains,
                at,
                slot.lived,
                life.die_at_call,
                self.plan.skews[at],
                config,
            ));
        }
    }

    fn pause(&mut self) {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let now = self.now;
            let paused = self
                .plan
                .pauses
                .iter()
                .any(|pause| pause.slot == at && pause.from <= now && now < pause.until);

            if paused != slot.paused {
                let what = if paused { "is paused" } else { "goes on" };
                self.remains.world.trace(now, &slot.name, || what.to_owned());
                if let Some(server) = slot.server.as_ref().filter(|_| !paused) {
                    server.wake_up(now);
                }
            }

            slot.paused = paused;
        }
    }

    fn kill(&mut self) {
        for slot in &mut self.slots {
            if let Some(server) =
                slot.server.as_ref().filter(|_| slot.dies_at.is_some_and(|at| at <= self.now))
            {
                server.kill();
            }
        }
        self.bury();
    }

    /// Lets every server live until the next thing happens to one of them.
    fn step(&mut self) {
        let side_by_side = self.slots.len() > 1;
        let longest = if side_by_side {
            MS * i64::try_from(self.rng.between(1, 50)).expect("small")
        } else {
            STEP
        };

        let pauses = self.plan.pauses.iter().flat_map(|pause| [pause.from, pause.until]);
        let slots = self.slots.iter().flat_map(|slot| {
            [
                slot.server.is_none().then_some(slot.boots_at),
                slot.dies_at.filter(|_| slot.server.is_some()),
            ]
        });

        let told = lock(&self.remains.site.cluster).next_report();
        let events = pauses.chain(slots.flatten()).chain(self.clients.next_at()).chain(told);
        let next =
            events.filter(|at| *at > self.now).min().unwrap_or(i64::MAX).min(self.now + longest);

        for slot in self.slots.iter().filter(|slot| !slot.paused) {
            if let Some(server) = &slot.server {
                server.live_until(next);
            }
        }

        let died = self.slots[0]
            .server
            .as_ref()
            .filter(|server| !side_by_side && server.link.dead.is_cancelled());

        // Whoever lives alone may be started again at the very instant it died.
        self.now = died.map_or(next, |server| server.now().min(next));
        self.remains.world.reach(self.now);
        self.bury();
    }

    fn bury(&mut self) {
        for slot in &mut self.slots {
            if let Some(server) = slot.server.take_if(|server| server.link.dead.is_cancelled()) {
                self.clients.mourn(&server.link.name);
                slot.boots_at =
                    self.now + slot.lives.get(slot.lived - 1).map_or(0, |life| life.down);
            }
        }
    }

    fn is_over(&self) -> bool {
        let runs_over = lock(&self.remains.model).runs.values().all(|run| run.state.is_complete());
        let last_pause = self.plan.pauses.iter().map(|pause| pause.until).max().unwrap_or(0);
        let quiet = !self.remains.world.is_anything_under_way();
        runs_over
            && quiet
            && self.now > last_pause
            && self.clients.are_content()
            && self.leftovers().is_empty()
    }

    /// What somebody still has to do, for people.
    fn leftovers(&self) -> String {
        let mut left = String::new();
        for (key, run) in &lock(&self.remains.model).runs {
            if !run.state.is_complete() {
                let tasks = run.tasks.iter().filter(|(_, task)| !task.state.is_complete());
                let tasks: Vec<String> =
                    tasks.map(|(id, task)| format!("{id} {:?}", task.state)).collect();
                left.push_str(&format!("{key} {:?} {tasks:?}; ", run.state));
            }
        }

        let logs = self
            .remains
            .journal
            .live_logs(gofer_core::Timestamp(i64::MAX), None, 10)
            .now_or_never()
            .expect("it never waits")
            .expect("it works");

        if !logs.is_empty() {
            left.push_str(&format!("logs to archive {logs:?}; "));
        }

        let cluster = lock(&self.remains.site.cluster);
        let kept = cluster.executions.iter().filter(|(_, execution)| !execution.removed);
        let kept: Vec<String> =
            kept.map(|(id, execution)| format!("{id} {:?}", execution.state)).collect();
        if !kept.is_empty() {
            left.push_str(&format!("at the scheduler {kept:?}; "));
        }

        if !self.clients.are_content() {
            left.push_str("clients without an answer; ");
        }

        left
    }

    /// The end, in peace: are the servers at rest, are all logs readable, has everything ended as
    /// it should.
    fn look_back(&mut self) {
        let world = self.remains.world.clone();
        world.calm_down();
        for slot in &mut self.slots {
            slot.dies_at = None;
            slot.boots_at = self.now;
        }

        self.boot();
        for _ in 0..2_000 {
            self.step();
            if self.slots.iter().all(|slot| slot.server.as_ref().is_some_and(Server::is_at_rest)) {
                break;
            }
        }

        for server in self.slots.iter().filter_map(|slot| slot.server.as_ref()) {
            let stats = server.engine().map(|engine| engine.stats());
            world.check(server.is_at_rest(), || {
                format!("{} is not at rest: {stats:?}", server.link.name)
            });
        }

        let Some(server) = self.slots[0].server.as_ref().filter(|server| server.is_at_rest())
        else {
            return;
        };

        server.runtime.block_on(async {
            let asks =
                self.plan.actions.iter().filter(|action| matches!(action.what, Ask::Start { .. }));
            oracle::check(&self.remains, asks.count()).await;
            self.read_logs(server).await;
        });

        if let Some(engine) = server.engine() {
            server.runtime.block_on(engine.shutdown());
        }
    }

    async fn read_logs(&self, server: &Server) {
        let world = &self.remains.world;
        let Some(engine) = server.engine() else { return };
        for run in self.remains.journal.runs() {
            let tasks: Vec<_> =
                lock(&self.remains.model).runs[&run].tasks.keys().cloned().collect();
            for task in tasks {
                for record in self.remains.journal.attempts(&run, &task) {
                    let id = ExecutionId {
                        run: run.clone(),
                        task: task.clone(),
                        attempt: record.attempt,
                    };

                    let written = lock(&self.remains.site.cluster)
                        .executions
                        .get(&id)
                        .map(|it| it.output.clone());
                    let read = async {
                        let chunks = engine.logs(&id, LogCursor::default(), false).await?;
                        chunks
                            .map_ok(|chunk| (chunk.stream, chunk.data.to_vec()))
                            .try_collect::<Vec<_>>()
                            .await
                    };

                    let right = match (&written, read.await) {
                        (Some(written), Ok(read)) => by_stream(written) == by_stream(&read),
                        // One that was given up as lost may have ended unseen; any other was read
                        // to its end, or is empty.
                        (Some(written), Err(_)) => written.is_empty() && rules::is_lost(&record),
                        (None, Ok(read)) => read.is_empty(),
                        (None, Err(_)) => true,
                    };

                    world.check(right, || {
                        format!("the log of `{id}` is {:?}, and not as written", record.log)
                    });
                }
            }
        }
    }
}

fn by_stream(chunks: &[(LogStream, Vec<u8>)]) -> [Vec<u8>; 2] {
    [LogStream::Stdout, LogStream::Stderr].map(|wanted| {
        chunks
            .iter()
            .filter(|(stream, _)| *stream == wanted)
            .flat_map(|(_, data)| data.clone())
            .collect()
    })
}

impl Remains {
    /// The secret `present` of a pipeline: value and record.
    fn put_secret(&self, pipeline: &PipelineId) {
        let location =
            SecretPath::new(format!("pipeline/n/{pipeline}/present")).expect("a valid path");
        let put = SecretStore::put(
            &*self.secrets,
            &location,
            &SecretString::from("sesame"),
            PutOptions::default(),
        )
        .now_or_never();

        put.expect("it never waits").expect("it is put");
        self.journal.put_secret_record(SecretRecord {
            scope: SecretScope::Pipeline(namespace(), pipeline.clone()),
            key: "present".to_owned(),
            location,
            allowed_namespaces: Vec::new(),
            updated_by: "the simulation".to_owned(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        });
    }
}

thread_local! {
    /// What the last panic on this thread said; tokio swallows the panics of tasks.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|panic| *panic = Some(info.to_string()));
            usual(info);
        }));
    });
}
