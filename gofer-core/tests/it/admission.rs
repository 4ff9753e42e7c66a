//! The rules of admission as tables, and the order of claims against the rule in its own words.

use std::collections::BTreeMap;

use gofer_core::admission::{
    ActiveRun, ActiveRuns, Admission, ClaimOrder, FairOrder, WaitingPipeline, active_limit,
    has_room, overlap,
};
use gofer_core::pipeline::Overlap;
use gofer_core::{NamespaceId, RunNumber};
use proptest::prelude::*;

/// Active runs by their numbers; those in the second list are being cancelled.
fn active(runs: &[u64], cancelling: &[u64]) -> Vec<ActiveRun> {
    let run = |&number: &u64| ActiveRun {
        run: RunNumber(number),
        cancelling: cancelling.contains(&number),
    };
    runs.iter().map(run).collect()
}

fn superseding(runs: &[u64]) -> Admission {
    Admission::Supersede(runs.iter().copied().map(RunNumber).collect())
}

#[test]
fn overlap_acts_as_its_table_says() {
    use Overlap::{CancelRunning, Queue, Skip};

    for (policy, parallelism, runs, cancelling, expected) in [
        (Queue, Some(1), &[1, 2, 3][..], &[][..], Admission::Queue),
        (Skip, None, &[1, 2, 3], &[], Admission::Queue),
        (Skip, Some(2), &[1], &[], Admission::Queue),
        (CancelRunning, None, &[1, 2, 3], &[], Admission::Queue),
        (CancelRunning, Some(2), &[1], &[], Admission::Queue),
        (CancelRunning, Some(2), &[1, 2], &[], superseding(&[1])),
        (CancelRunning, Some(2), &[1, 2, 3, 4], &[], superseding(&[1, 2, 3])),
        // One that is being cancelled makes room already, and is not asked again.
        (CancelRunning, Some(2), &[1, 2], &[1], Admission::Queue),
        (CancelRunning, Some(1), &[1, 2, 3], &[1], superseding(&[2, 3])),
        (CancelRunning, Some(1), &[1, 2], &[1, 2], Admission::Queue),
    ] {
        let found = overlap(policy, parallelism, &active(runs, cancelling));
        assert_eq!(found, expected, "{policy:?} {parallelism:?} {runs:?} {cancelling:?}");
    }
}

#[test]
fn a_run_is_skipped_when_as_many_are_active_as_may_be() {
    // One that is being cancelled is active until its end: a run in its place would overlap it.
    for (runs, cancelling) in [(&[1, 2][..], &[][..]), (&[1, 2], &[1]), (&[1, 2, 3], &[])] {
        let found = overlap(Overlap::Skip, Some(2), &active(runs, cancelling));
        let Admission::Skip(reason) = found else { panic!("{found:?}") };
        let active = runs.len();
        let text = format!("{active} runs of this pipeline were active, and its parallelism is 2");
        assert_eq!(reason.message, text);
    }
}

#[test]
fn room_is_what_parallelism_leaves() {
    assert!(has_room(None, usize::MAX));
    assert!(has_room(Some(2), 1) && !has_room(Some(2), 2) && !has_room(Some(2), 3));
    assert!(!has_room(Some(0), 0));
}

#[test]
fn the_fewest_of_a_namespace_go_before_the_fewest_of_a_pipeline_and_those_before_the_oldest() {
    let order = |of_namespace, of_pipeline, waits_since| FairOrder {
        of_namespace,
        of_pipeline,
        waits_since,
    };
    let sorted = [order(0, 0, 9), order(0, 1, 1), order(1, 0, 2), order(1, 0, 3), order(1, 1, 0)];
    assert!(sorted.is_sorted());
}

fn namespace(number: usize) -> NamespaceId {
    NamespaceId::new(format!("n{number}")).unwrap()
}

/// A pipeline as it is drawn: its namespace, parallelism, and how many of its runs are running.
type Drawn = (usize, Option<usize>, usize);

fn pipelines() -> impl Strategy<Value = Vec<Drawn>> {
    let pipeline = (0..3usize, proptest::option::of(1..4usize), 0..3usize);
    proptest::collection::vec(pipeline, 1..6)
}

/// The rule in its own words, by looking at every run that waits.
#[derive(Debug)]
struct Model {
    pipelines: Vec<Drawn>,
    limits: [usize; 3],
    /// With the place of the pipeline; the first waits longest.
    waiting: Vec<usize>,
}

impl Model {
    fn of_namespace(&self, namespace: usize) -> usize {
        let own = self.pipelines.iter().filter(|(other, _, _)| *other == namespace);
        own.map(|(_, _, running)| running).sum()
    }

    /// The place among those that wait of the one that goes next.
    fn next(&self) -> Option<usize> {
        let may = |at: &usize| {
            let (namespace, parallelism, running) = self.pipelines[*at];
            parallelism.is_none_or(|limit| running < limit)
                && self.of_namespace(namespace) < self.limits[namespace]
        };
        let waiting = self.waiting.iter().enumerate().filter(|(_, at)| may(at));
        let next = waiting.min_by_key(|(age, at)| {
            let (namespace, _, running) = self.pipelines[**at];
            (self.of_namespace(namespace), running, *age)
        });
        next.map(|(age, _)| age)
    }
}

proptest! {
    #[test]
    fn claims_go_to_the_fewest_and_then_the_oldest(
        pipelines in pipelines(),
        waiting in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        limits in prop::array::uniform3(0..12usize),
    ) {
        let waiting: Vec<usize> =
            waiting.iter().map(|index| index.index(pipelines.len())).collect();
        let mut queues: Vec<Vec<usize>> = vec![Vec::new(); pipelines.len()];
        for (age, at) in waiting.iter().enumerate().rev() {
            queues[*at].push(age);
        }

        let mut model = Model { pipelines: pipelines.clone(), limits, waiting };
        let active: BTreeMap<NamespaceId, ActiveRuns> = (0..3)
            .map(|number| {
                let running = model.of_namespace(number);
                (namespace(number), ActiveRuns { running, limit: limits[number] })
            })
            .collect();
        let candidates = pipelines.iter().zip(&queues).map(|(drawn, queue)| WaitingPipeline {
            namespace: namespace(drawn.0),
            parallelism: drawn.1,
            running: drawn.2,
            oldest: queue.last().copied(),
        });
        let mut order = ClaimOrder::new(candidates.collect(), &active);

        while let Some(age) = model.next() {
            let at = model.waiting.remove(age);
            prop_assert_eq!(order.next(), Some(at));
            queues[at].pop();
            order.claimed(at, queues[at].last().copied());
            model.pipelines[at].2 += 1;
        }
        prop_assert_eq!(order.next(), None);
    }

    #[test]
    fn what_is_superseded_is_the_oldest_and_no_more_than_make_room(
        limit in 1..6usize,
        cancelling in proptest::collection::vec(any::<bool>(), 0..12),
    ) {
        let active: Vec<ActiveRun> = (1..)
            .zip(&cancelling)
            .map(|(number, &cancelling)| ActiveRun { run: RunNumber(number), cancelling })
            .collect();
        let staying: Vec<RunNumber> =
            active.iter().filter(|one| !one.cancelling).map(|one| one.run).collect();

        let superseded = match overlap(Overlap::CancelRunning, Some(limit), &active) {
            Admission::Queue => Vec::new(),
            Admission::Supersede(runs) => runs,
            Admission::Skip(reason) => panic!("{reason}"),
        };
        prop_assert!(staying.starts_with(&superseded));
        let left = staying.len() - superseded.len();
        prop_assert!(left < limit, "{left} stay");
        prop_assert!(superseded.is_empty() || left == limit - 1, "one too many was cancelled");
    }

    #[test]
    fn nobody_is_counted_where_overlap_never_acts(
        parallelism in proptest::option::of(1..3usize),
        count in 0..6u64,
    ) {
        let active = active(&(1..=count).collect::<Vec<_>>(), &[]);
        for policy in [Overlap::Queue, Overlap::Skip, Overlap::CancelRunning] {
            if active_limit(policy, parallelism).is_none() {
                prop_assert_eq!(overlap(policy, parallelism, &active), Admission::Queue);
            }
        }
    }
}
