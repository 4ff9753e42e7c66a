//! Random DAGs with random outcomes, orders and server crashes, against an oracle that is written
//! from the design's words and knows nothing of the machine.

use std::collections::{BTreeMap, BTreeSet};

use gofer_core::journal::RunSnapshot;
use gofer_core::pipeline::{Condition, PipelineSpec};
use gofer_core::reuse::reused_tasks;
use gofer_core::run::{RunState, RunStatus, TaskRun, TaskState, TaskStatus};
use gofer_core::scheduler::ExecutionState;
use gofer_core::{Attempt, TaskId, Timestamp};
use gofer_engine::rules::{Decision, Effect, Input, Machine, SchedulerFacts};
use proptest::prelude::*;

use crate::support::{id, pipeline, retried, snapshot, task};

/// One task: its edges to earlier tasks, and how each of its attempts would end (true is success).
#[derive(Debug, Clone)]
struct Node {
    edges: Vec<(usize, Condition)>,
    retries: u32,
    continue_on_failure: bool,
    outcomes: Vec<bool>,
}

/// A node as it is drawn: its edges are not bound to tasks yet.
type Drawn = (Vec<(prop::sample::Index, Condition)>, u32, bool, Vec<bool>);

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let condition =
        prop_oneof![Just(Condition::Any), Just(Condition::Success), Just(Condition::Failure)];
    let node = (
        prop::collection::vec((any::<prop::sample::Index>(), condition), 0..4),
        0..3u32,
        prop::bool::weighted(0.2),
        prop::collection::vec(prop::bool::weighted(0.6), 3),
    );

    prop::collection::vec(node, 1..16).prop_map(|nodes| {
        let build = |(at, (edges, retries, continue_on_failure, outcomes)): (usize, Drawn)| {
            let parents: BTreeMap<usize, Condition> = edges
                .into_iter()
                .filter(|_| at > 0)
                .map(|(parent, condition)| (parent.index(at.max(1)), condition))
                .collect();
            Node { edges: parents.into_iter().collect(), retries, continue_on_failure, outcomes }
        };
        nodes.into_iter().enumerate().map(build).collect()
    })
}

fn name(at: usize) -> String {
    format!("t{at}")
}

fn spec(nodes: &[Node]) -> PipelineSpec {
    let build = |(at, node): (usize, &Node)| {
        let names: Vec<(String, Condition)> =
            node.edges.iter().map(|(parent, condition)| (name(*parent), *condition)).collect();
        let parents: Vec<(&str, Condition)> =
            names.iter().map(|(name, condition)| (name.as_str(), *condition)).collect();
        let mut spec = retried(task(&name(at), &parents), node.retries);
        spec.continue_on_failure = node.continue_on_failure;
        spec
    };
    pipeline(nodes.iter().enumerate().map(build).collect())
}

/// Design.md section 4, in its own words: task statuses, then the run's.
fn oracle(nodes: &[Node]) -> (Vec<TaskStatus>, RunStatus) {
    let mut status: Vec<TaskStatus> = Vec::new();
    for node in nodes {
        let satisfied =
            node.edges.iter().all(|&(parent, condition)| match (condition, status[parent]) {
                (Condition::Any, _) => true,
                (Condition::Success, TaskStatus::Successful) => true,
                (Condition::Success, TaskStatus::Failed) => nodes[parent].continue_on_failure,
                (Condition::Failure, TaskStatus::Failed) => true,
                _ => false,
            });

        let tries = node.retries as usize + 1;
        status.push(match satisfied {
            false => TaskStatus::Skipped,
            true if node.outcomes[..tries].contains(&true) => TaskStatus::Successful,
            true => TaskStatus::Failed,
        });
    }

    let handled = |failed: usize| {
        nodes.iter().zip(&status).any(|(node, &status)| {
            status == TaskStatus::Successful && node.edges.contains(&(failed, Condition::Failure))
        })
    };

    let fails = (0..nodes.len()).any(|at| {
        status[at] == TaskStatus::Failed && !nodes[at].continue_on_failure && !handled(at)
    });

    (status, if fails { RunStatus::Failed } else { RunStatus::Successful })
}

/// What survives a crash: the stored run, and the executions at the scheduler.
struct World {
    stored: RunSnapshot,
    machine: Machine,
    now: Timestamp,
    starts: BTreeMap<(TaskId, Attempt), u32>,
    running: BTreeSet<(TaskId, Attempt)>,
}

impl World {
    fn new(nodes: &[Node]) -> Self {
        Self::of(snapshot(spec(nodes)))
    }

    fn of(stored: RunSnapshot) -> Self {
        let machine = Machine::new(stored.clone(), SchedulerFacts::default());
        let mut world = Self {
            stored,
            machine,
            now: Timestamp(0),
            starts: BTreeMap::new(),
            running: BTreeSet::new(),
        };
        world.input(Input::Claimed);
        world
    }

    /// A run that repeats this one from what failed, and what it takes over.
    fn repeated(&self) -> (Self, Vec<TaskId>) {
        let reused = reused_tasks(&self.stored.spec, |task| self.stored.tasks[task].state.status());
        let mut stored = snapshot(self.stored.spec.as_ref().clone());
        for task in &reused {
            stored.tasks.get_mut(task).unwrap().state = TaskState::Complete(TaskStatus::Successful);
        }
        (Self::of(stored), reused)
    }

    /// Lets everything end, with crashes at random moments.
    fn run(&mut self, nodes: &[Node], picks: Vec<(prop::sample::Index, bool, bool)>) {
        let mut picks = picks.into_iter();
        while !self.machine.run().state.is_complete() {
            let (pick, crash, crash_before_effects) =
                picks.next().expect("200 steps are enough for 15 tasks of 3 attempts");
            self.end_one(nodes, pick, crash_before_effects);
            if crash {
                self.crash();
            }
        }
    }

    fn statuses(&self) -> Vec<TaskStatus> {
        let status =
            |at| self.stored.tasks[&id(&name(at))].state.status().expect("the run is complete");
        (0..self.stored.tasks.len()).map(status).collect()
    }

    fn input(&mut self, input: Input) {
        let decision = self.machine.step(self.now, input);
        self.commit(&decision);
        self.act(decision.effects);
    }

    fn commit(&mut self, decision: &Decision) {
        for change in &decision.tasks {
            let stored = self.stored.tasks.get_mut(&change.to.task).unwrap();
            assert_eq!(
                (stored.state, stored.attempt),
                (change.from, change.from_attempt),
                "compare-and-set"
            );
            assert!(
                change.from.may_become(change.to.state),
                "{:?} -> {:?}",
                change.from,
                change.to.state
            );
            *stored = change.to.clone();
        }
        if let Some(change) = &decision.run {
            assert_eq!(self.stored.run.state, change.from);
            self.stored.run.state = change.to;
        }
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(task, attempt) => self.start(task, attempt),
                // The scheduler is asked first: what exists is not started again.
                Effect::Restart(task, attempt)
                    if !self.starts.contains_key(&(task.clone(), attempt)) =>
                {
                    self.start(task, attempt);
                }
                Effect::Restart(..) | Effect::Observe(..) | Effect::Archive(..) => {}
                Effect::Stop(..) | Effect::Confirm(..) => panic!("nobody asked for a stop"),
            }
        }
    }

    fn start(&mut self, task: TaskId, attempt: Attempt) {
        for edge in &self.stored.spec.task(&task).unwrap().depends_on {
            assert!(
                self.stored.tasks[&edge.task].state.is_complete(),
                "{task} started before {}",
                edge.task
            );
        }
        *self.starts.entry((task.clone(), attempt)).or_default() += 1;
        self.running.insert((task, attempt));
    }

    /// The server dies, after the commit and before or after the effects; another loads what is
    /// stored.
    fn crash(&mut self) {
        self.machine = Machine::new(self.stored.clone(), SchedulerFacts::default());
        self.input(Input::Claimed);
    }

    fn end_one(&mut self, nodes: &[Node], pick: prop::sample::Index, crash_before_effects: bool) {
        if self.running.is_empty() {
            self.now =
                self.machine.next_deadline().expect("nothing runs, so a retry is waited for");
            return self.input(Input::Tick);
        }

        let (task, attempt) =
            self.running.iter().nth(pick.index(self.running.len())).unwrap().clone();
        self.running.remove(&(task.clone(), attempt));
        let at: usize = task.as_str()[1..].parse().unwrap();
        let code = i32::from(!nodes[at].outcomes[attempt.0 as usize - 1]);
        let input = Input::Observed(
            task,
            attempt,
            ExecutionState::Exited { code, oom: false, signal: None }.into(),
        );

        if crash_before_effects {
            let decision = self.machine.step(self.now, input);
            self.commit(&decision);
            self.crash();
        } else {
            self.input(input);
        }
    }
}

fn picks() -> impl Strategy<Value = Vec<(prop::sample::Index, bool, bool)>> {
    prop::collection::vec(
        (any::<prop::sample::Index>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        200,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_as_the_oracle_says(nodes in nodes(), picks in picks()) {
        let mut world = World::new(&nodes);
        world.run(&nodes, picks);
        let (tasks, run) = oracle(&nodes);
        prop_assert_eq!(world.statuses(), tasks);
        prop_assert_eq!(world.stored.run.state, RunState::Complete(run));
        prop_assert!(world.starts.values().all(|&starts| starts == 1), "started twice: {:?}", world.starts);
        let tracked: Vec<&TaskRun> = world.machine.tasks().iter().collect();
        prop_assert!(tracked.iter().all(|task| world.stored.tasks[&task.task] == **task), "machine and store differ");
    }

    /// It ends as if all had run, and what was taken over had been successful once more.
    #[test]
    fn a_run_repeated_from_what_failed_ends_as_the_oracle_says(
        nodes in nodes(),
        outcomes in prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.6), 3), 16),
        (first, second) in (picks(), picks()),
    ) {
        let mut world = World::new(&nodes);
        world.run(&nodes, first);
        let (mut again, reused) = world.repeated();
        let nodes: Vec<Node> = nodes
            .into_iter()
            .zip(outcomes)
            .enumerate()
            .map(|(at, (node, outcomes))| match reused.contains(&id(&name(at))) {
                true => Node { outcomes: vec![true; 3], ..node },
                false => Node { outcomes, ..node },
            })
            .collect();
        again.run(&nodes, second);
        let (tasks, run) = oracle(&nodes);
        prop_assert_eq!(again.statuses(), tasks);
        prop_assert_eq!(again.stored.run.state, RunState::Complete(run));
        prop_assert!(again.starts.keys().all(|(task, _)| !reused.contains(task)), "ran again: {:?}", again.starts);
    }
}
