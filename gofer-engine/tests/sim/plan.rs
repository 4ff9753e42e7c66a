//! What a seed decides before anything runs: pipelines, what clients ask for, how servers live and
//! die, what may fail.

use std::collections::BTreeMap;
use std::time::Duration;

use gofer_core::pipeline::{
    Condition, CustomTask, Dependency, Overlap, PipelineSpec, Resources, RetryOn, RetryPolicy,
    TaskKind, TaskSpec,
};
use gofer_core::{PipelineId, TaskId};

use crate::link::DieAt;
use crate::rng::Rng;
use crate::world::{MS, Outage, Part, SECOND};

/// Most tasks of a pipeline.
const MAX_TASKS: u64 = 60;

/// How often calls fail, in a thousand, and how long they take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Calls that answer with an error, half of them after they took effect.
    pub(crate) error: u32,
    /// Calls that take up to `slow_ms`.
    pub(crate) slow: u32,
    pub(crate) slow_ms: u64,
    /// Other calls take up to this.
    pub(crate) usual_ms: u64,
    /// Calls that take about as long as the engine waits for an answer.
    pub(crate) hang: u32,
    /// Watch events that are lost, and those that come again.
    pub(crate) lost_events: u32,
    pub(crate) repeated_events: u32,
    /// Watch events after which the stream breaks.
    pub(crate) broken_watch: u32,
}

/// What a client asks for, and when.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    pub(crate) at: i64,
    pub(crate) what: Ask,
}

/// `nth` counts the runs there are by then.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Start { pipeline: PipelineId },
    CancelRun { nth: u64, force: bool },
    CancelTask { nth: u64, task: u64, force: bool },
    Retry { nth: u64, from_failed: bool },
}

/// One life of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    pub(crate) die_at_call: Option<DieAt>,
    pub(crate) die_after: Option<i64>,
    /// Until it is started again.
    pub(crate) down: i64,
}

/// A server stands still while the world goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    pub(crate) slot: usize,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) pipelines: Vec<PipelineSpec>,
    pub(crate) actions: Vec<Action>,
    pub(crate) faults: Faults,
    pub(crate) outages: Vec<Outage>,
    /// Per server, its lives in order; the one after the last does not die.
    pub(crate) lives: Vec<Vec<Life>>,
    pub(crate) pauses: Vec<Pause>,
    /// Per server, by how much its host's clock is wrong.
    pub(crate) skews: Vec<i64>,
    pub(crate) max_executions: usize,
    pub(crate) max_executions_per_pipeline: Option<usize>,
    pub(crate) max_active_runs: usize,
    pub(crate) max_changes: usize,
    /// Inserts, in a thousand, that fail and take effect all the same, long after.
    pub(crate) late_inserts: u32,
    /// Inserts, in a thousand, that are answered long after they took effect.
    pub(crate) slow_inserts: u32,
    pub(crate) lease_ttl: Duration,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::of(seed, "plan");
        let mut bounds = Rng::of(seed, "bounds");
        let pipelines: Vec<PipelineSpec> =
            (0..rng.between(1, 3)).map(|at| pipeline(&mut rng, at)).collect();
        let actions = actions(&mut rng, &pipelines);
        let mut faults = faults(&mut rng);

        if faults.error == 0 && Rng::of(seed, "slow").chance(500) {
            (faults.slow, faults.slow_ms) = (200, 2_000);
        }

        let outages = outages(&mut rng);
        let (lives, pauses) = servers(&mut rng);
        let mut clocks = Rng::of(seed, "clocks");
        let mut pieces = Rng::of(seed, "pieces");
        let late_inserts = Rng::of(seed, "late").pick(&[0, 0, 100, 300]);
        let skews = lives.iter().map(|_| skew(&mut clocks)).collect();
        let plan = Self {
            pipelines,
            actions,
            faults,
            outages,
            lives,
            pauses,
            skews,
            max_executions_per_pipeline: bounds.pick(&[Some(1), Some(3), None, None]),
            max_active_runs: bounds.pick(&[1, 3, 1_000, 1_000]),
            max_changes: pieces.pick(&[1, 2, 3, 500]),
            late_inserts,
            slow_inserts: Rng::of(seed, "slow inserts").pick(&[0, 0, 0, 300]),
            max_executions: usize::try_from(rng.pick(&[1, 2, 4, 8, 64])).expect("small"),
            lease_ttl: Duration::from_secs(rng.between(3, 15)),
        };

        match Rng::of(seed, "steady").below(10) {
            0 => plan.steadied(),
            1 => plan.shared(&mut Rng::of(seed, "shared")),
            _ => plan,
        }
    }

    /// The same where calls are slow and nothing else goes wrong: then nothing has an excuse to be
    /// seen late.
    fn steadied(self) -> Self {
        let faults = Faults {
            slow: 200,
            slow_ms: 2_000,
            usual_ms: self.faults.usual_ms,
            ..Faults::default()
        };
        let lives = vec![Vec::new(); self.lives.len()];
        Self { faults, lives, outages: Vec::new(), pauses: Vec::new(), late_inserts: 0, ..self }
    }

    /// The same with two servers that live, and many who cancel through the one that does not have
    /// the run; all that is lost are events and hints.
    fn shared(self, rng: &mut Rng) -> Self {
        let faults =
            Faults { usual_ms: self.faults.usual_ms, lost_events: 100, ..Faults::default() };
        let mut actions = self.actions;

        for _ in 0..rng.between(3, 8) {
            let (nth, task, force) = (rng.below(100), rng.below(100), rng.chance(300));
            let what = cancel(rng, nth, task, force);
            actions
                .push(Action { at: MS * i64::try_from(rng.below(60_000)).expect("small"), what });
        }

        actions.sort_by_key(|action| action.at);
        let (lives, skews) = (vec![Vec::new(); 2], vec![0; 2]);
        let (outages, pauses, late_inserts) = (Vec::new(), Vec::new(), 0);

        Self {
            actions,
            faults,
            lives,
            skews,
            outages,
            pauses,
            late_inserts,
            slow_inserts: 0,
            ..self
        }
    }

    /// Whether nothing fails, dies or stands still; calls may be slow, and events may be lost or
    /// come again.
    pub(crate) fn is_steady(&self) -> bool {
        [self.faults.error, self.faults.hang, self.late_inserts] == [0; 3]
            && self.outages.is_empty()
            && self.pauses.is_empty()
            && self.lives.iter().all(Vec::is_empty)
    }
}

/// Most hosts are synchronised, some are not.
fn skew(rng: &mut Rng) -> i64 {
    let off = i64::try_from(rng.between(0, 40)).expect("small");
    match rng.below(4) {
        0 => off * SECOND,
        1 => -off * SECOND,
        _ => 0,
    }
}

fn faults(rng: &mut Rng) -> Faults {
    match rng.below(10) {
        0..2 => Faults { usual_ms: rng.below(3), ..Faults::default() },
        2..7 => Faults {
            error: 30,
            slow: 20,
            slow_ms: 2_000,
            usual_ms: rng.below(20),
            hang: 0,
            lost_events: 50,
            repeated_events: 100,
            broken_watch: 20,
        },
        _ => Faults {
            error: 200,
            slow: 100,
            slow_ms: 5_000,
            usual_ms: rng.below(200),
            hang: 5,
            lost_events: 200,
            repeated_events: 200,
            broken_watch: 100,
        },
    }
}

fn outages(rng: &mut Rng) -> Vec<Outage> {
    let count = if rng.chance(300) { rng.between(1, 3) } else { 0 };
    let outage = |rng: &mut Rng| {
        let part = rng.pick(&[
            Part::Journal,
            Part::Journal,
            Part::Scheduler,
            Part::Objects,
            Part::Secrets,
        ]);
        let from = SECOND * i64::try_from(rng.below(40)).expect("small");
        let until = from + SECOND * i64::try_from(rng.between(1, 40)).expect("small");
        Outage { part, from, until }
    };
    (0..count).map(|_| outage(rng)).collect()
}

fn servers(rng: &mut Rng) -> (Vec<Vec<Life>>, Vec<Pause>) {
    let slots = if rng.chance(250) { 2 } else { 1 };
    let lives = (0..slots)
        .map(|_| (0..rng.pick(&[0, 1, 1, 2, 3, 5, 12])).map(|_| life(rng)).collect())
        .collect();
    let mut pauses = Vec::new();
    let count = if slots == 2 { rng.between(1, 4) } else { rng.below(2) };
    for _ in 0..count {
        let from = MS * i64::try_from(rng.below(40_000)).expect("small");
        let until = from + MS * i64::try_from(rng.between(500, 40_000)).expect("small");
        pauses.push(Pause { slot: rng.index(slots), from, until });
    }
    (lives, pauses)
}

fn life(rng: &mut Rng) -> Life {
    let down = MS * i64::from(rng.pick(&[0, 1, 100, 2_000, 30_000]));
    if rng.chance(800) {
        let call = rng.between(1, 300);
        Life { die_at_call: Some(DieAt { call, after: rng.chance(500) }), die_after: None, down }
    } else {
        let die_after = MS * i64::try_from(rng.below(20_000)).expect("small");
        Life { die_at_call: None, die_after: Some(die_after), down }
    }
}

fn actions(rng: &mut Rng, pipelines: &[PipelineSpec]) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut at = |rng: &mut Rng, what| {
        actions.push(Action { at: MS * i64::try_from(rng.below(30_000)).expect("small"), what })
    };

    for _ in 0..rng.between(1, 6) {
        let pipeline = pipelines[rng.index(pipelines.len())].name.clone();
        at(rng, Ask::Start { pipeline });
    }

    if rng.chance(500) {
        for _ in 0..rng.between(1, 4) {
            let (nth, force) = (rng.below(100), rng.chance(300));
            let task = rng.below(100);
            let what = cancel(rng, nth, task, force);
            at(rng, what);
        }
    }

    for _ in 0..rng.pick(&[0, 0, 1, 2]) {
        let what = Ask::Retry { nth: rng.below(100), from_failed: rng.chance(600) };
        at(rng, what);
    }

    actions.sort_by_key(|action| action.at);
    // The first thing is a run, early.
    actions[0] = Action { at: 0, what: Ask::Start { pipeline: pipelines[0].name.clone() } };
    actions
}

/// Of a run, or of one task of it.
fn cancel(rng: &mut Rng, nth: u64, task: u64, force: bool) -> Ask {
    if rng.chance(500) {
        Ask::CancelRun { nth, force }
    } else {
        Ask::CancelTask { nth, task, force }
    }
}

fn pipeline(rng: &mut Rng, at: u64) -> PipelineSpec {
    let most = rng.pick(&[3, 8, 8, 15, 30, MAX_TASKS]);
    let count = rng.between(1, most);
    let shape = rng.below(4);
    let parallelism = rng.pick(&[None, Some(1), Some(2), Some(3)]);
    let overlap =
        rng.pick(&[Overlap::Queue, Overlap::Queue, Overlap::Skip, Overlap::CancelRunning]);
    let spec = PipelineSpec {
        run_variables: Vec::new(),
        name: PipelineId::new(format!("p{at}")).expect("a valid name"),
        description: String::new(),
        tasks: (0..count).map(|task_at| task(rng, task_at, shape)).collect(),
        variables: BTreeMap::new(),
        parallelism,
        overlap: if parallelism.is_some() { overlap } else { Overlap::Queue },
        subscriptions: Vec::new(),
        sdk: String::new(),
    };

    let violations = gofer_core::validate::pipeline(&spec);
    assert!(violations.is_empty(), "{violations:?}");
    spec
}

fn name(at: u64) -> TaskId {
    TaskId::new(format!("t{at}")).expect("a valid name")
}

fn task(rng: &mut Rng, at: u64, shape: u64) -> TaskSpec {
    let mut variables = BTreeMap::new();
    match rng.below(100) {
        0..3 => drop(variables.insert("KEY".to_owned(), "secret{{absent}}".to_owned())),
        3..8 => drop(variables.insert("KEY".to_owned(), "secret{{present}}".to_owned())),
        _ => {}
    }

    let millis = |rng: &mut Rng, low, high| Duration::from_millis(rng.between(low, high));
    TaskSpec {
        id: name(at),
        description: String::new(),
        kind: TaskKind::Custom(CustomTask {
            command: vec!["simulated".to_owned()],
            ..CustomTask::default()
        }),
        depends_on: edges(rng, at, shape),
        variables,
        retries: retries(rng),
        timeout: rng.chance(200).then(|| millis(rng, 1_000, 10_000)),
        start_timeout: rng.chance(150).then(|| millis(rng, 1_000, 10_000)),
        resources: Resources::default(),
        continue_on_failure: rng.chance(150),
    }
}

fn edges(rng: &mut Rng, at: u64, shape: u64) -> Vec<Dependency> {
    let parents: Vec<u64> = match shape {
        _ if at == 0 => Vec::new(),
        // A chain, a fan, and two kinds of anything.
        0 => vec![at - 1],
        1 => vec![0],
        _ => (0..rng.below(4)).map(|_| rng.below(at)).collect(),
    };

    let unique: std::collections::BTreeSet<u64> = parents.into_iter().collect();
    let conditions = [
        Condition::Success,
        Condition::Success,
        Condition::Success,
        Condition::Any,
        Condition::Failure,
    ];

    unique
        .into_iter()
        .map(|parent| Dependency { task: name(parent), condition: rng.pick(&conditions) })
        .collect()
}

fn retries(rng: &mut Rng) -> RetryPolicy {
    let attempts = u32::try_from(rng.pick(&[0, 0, 1, 2, 3])).expect("small");
    let all = [RetryOn::Failed, RetryOn::TimedOut, RetryOn::Lost];
    let on = if rng.chance(700) { all.to_vec() } else { vec![rng.pick(&all)] };
    let backoff = rng.chance(800).then(|| Duration::from_millis(rng.between(10, 2_000)));
    let max_backoff = rng.chance(300).then(|| Duration::from_millis(rng.between(2_000, 3_000)));
    RetryPolicy { attempts, backoff, max_backoff, on }
}
