//! The rule of fairness: which waiting start gets the next free slot. No locks, no waiting.
//!
//! A free slot goes to the waiting start whose namespace has the fewest slots, then whose pipeline
//! has the fewest, then to the one that waits longest. So many waiting starts of one pipeline hold
//! up no other. Each step costs the logarithm of how many pipelines and starts wait.
//!
//! That decides about slots that come free. So that some do, though one namespace would take them
//! all for long executions, a namespace gets no more slots than [`SHARE`] times those that are
//! free, as long as there are other namespaces. One namespace then has at most seven eighths; a
//! second gets most of the rest, and a third still finds a slot. The more of them are busy, the
//! less stays free, and nothing has to be known of who might come. It is the dynamic threshold by
//! which switches share their memory among ports (Choudhury and Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gofer_core::admission::FairOrder;
use gofer_core::quota::QuotaKind;
use gofer_core::{NamespaceId, PipelineId, RunKey};

/// How many slots a namespace may have for each that is free. With fewer than eight slots in all
/// it bounds nothing.
const SHARE: usize = 7;

/// What namespaces may have of the slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Each without a bound of its own.
    pub(crate) per_namespace: usize,
    /// Those with one.
    pub(crate) of_namespace: BTreeMap<NamespaceId, usize>,
    /// Whether some slots are kept for namespaces that have fewer.
    pub(crate) keeps_some_free: bool,
}

impl Bounds {
    fn limit(&self, namespace: &NamespaceId) -> usize {
        self.of_namespace.get(namespace).copied().unwrap_or(self.per_namespace)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { per_namespace: usize::MAX, of_namespace: BTreeMap::new(), keeps_some_free: false }
    }
}

/// Whose a slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    namespace: NamespaceId,
    pipeline: PipelineId,
}

impl From<&RunKey> for Owner {
    fn from(run: &RunKey) -> Self {
        Self { namespace: run.namespace.clone(), pipeline: run.pipeline.clone() }
    }
}

/// Names one wait; a smaller one has waited longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Counts slots, and keeps what stands for each waiting start (`W`).
#[derive(Debug)]
pub(super) struct Queue<W> {
    limit: usize,
    limit_per_pipeline: usize,
    bounds: Bounds,
    taken: usize,
    next_ticket: Ticket,
    /// Those with slots or waits.
    namespaces: HashMap<NamespaceId, Namespace<W>>,
    /// The best of each namespace.
    order: BTreeSet<(FairOrder<Ticket>, NamespaceId)>,
}

#[derive(Debug)]
struct Namespace<W> {
    taken: usize,
    /// Those with slots or waits.
    pipelines: HashMap<PipelineId, Pipeline<W>>,
    /// The longest wait of each pipeline that is below its limit: slots of the pipeline, the wait,
    /// the pipeline.
    ready: BTreeSet<(usize, Ticket, PipelineId)>,
}

#[derive(Debug)]
struct Pipeline<W> {
    taken: usize,
    waiting: BTreeMap<Ticket, W>,
}

impl<W> Queue<W> {
    pub(super) fn new(limit: usize, limit_per_pipeline: Option<usize>) -> Self {
        Self {
            limit,
            limit_per_pipeline: limit_per_pipeline.unwrap_or(usize::MAX),
            bounds: Bounds::default(),
            taken: 0,
            next_ticket: Ticket(0),
            namespaces: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// How many slots are taken, also beyond the limit.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Takes a slot, if need be one too many.
    pub(super) fn take(&mut self, owner: &Owner) {
        self.change(owner, |pipeline| pipeline.taken += 1);
    }

    /// Bounds namespaces from now on.
    pub(super) fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.order = self
            .namespaces
            .iter()
            .filter_map(|(name, namespace)| namespace.key(name, &self.bounds))
            .collect();
    }

    /// Takes a slot if no limit forbids it. Nobody who might have it waits, as long as whoever
    /// frees slots calls [`Self::admit`] until there is nobody.
    pub(super) fn try_take(&mut self, owner: &Owner) -> bool {
        let of_namespace = self.taken_by_namespace(&owner.namespace);
        let free = self.taken_by(owner) < self.limit_per_pipeline
            && of_namespace < self.bounds.limit(&owner.namespace)
            && self.has_slot_for(of_namespace);
        if free {
            self.take(owner);
        }
        free
    }

    /// Gives a slot back.
    pub(super) fn give_back(&mut self, owner: &Owner) {
        self.change(owner, |pipeline| pipeline.taken -= 1);
    }

    /// Waits.
    pub(super) fn join(&mut self, owner: &Owner, waiting: W) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket = Ticket(ticket.0 + 1);
        self.change(owner, |pipeline| pipeline.waiting.insert(ticket, waiting));
        ticket
    }

    /// Waits no longer; whether it still did.
    pub(super) fn leave(&mut self, owner: &Owner, ticket: Ticket) -> bool {
        self.change(owner, |pipeline| pipeline.waiting.remove(&ticket)).is_some()
    }

    /// Gives a free slot to whose turn it is.
    pub(super) fn admit(&mut self) -> Option<W> {
        let (turn, namespace) = self.order.first()?.clone();
        // If it may have none, nobody may: all others have as many or more.
        if !self.has_slot_for(turn.of_namespace) {
            return None;
        }
        let (_, _, pipeline) = self.namespaces.get(&namespace)?.ready.first()?.clone();
        self.change(&Owner { namespace, pipeline }, |pipeline| {
            pipeline.taken += 1;
            pipeline.waiting.remove(&turn.waits_since)
        })
    }

    /// Whether there is a free slot for a namespace that has so many.
    fn has_slot_for(&self, of_namespace: usize) -> bool {
        let free = self.limit.saturating_sub(self.taken);
        free > 0 && (!self.bounds.keeps_some_free || of_namespace < free.saturating_mul(SHARE))
    }

    /// Why a start of this pipeline waits.
    pub(super) fn why(&self, owner: &Owner) -> String {
        let Owner { namespace, pipeline } = owner;
        let (taken, limit) = (self.taken_by(owner), self.limit_per_pipeline);
        if taken >= limit {
            return format!(
                "waiting: {taken} of {limit} executions of pipeline {namespace}/{pipeline} in \
                 flight"
            );
        }

        let (taken, limit) = (self.taken_by_namespace(namespace), self.bounds.limit(namespace));
        if taken >= limit {
            return format!(
                "waiting: {taken} of {limit} executions of namespace {namespace} in flight on this \
                 server (quota `{}`)",
                QuotaKind::Executions
            );
        }

        if self.taken < self.limit && !self.has_slot_for(taken) {
            let free = self.limit - self.taken;
            return format!(
                "waiting: {taken} executions of namespace {namespace} in flight, and the last \
                 {free} of {} slots of this server are kept for namespaces with fewer",
                self.limit
            );
        }

        format!("waiting: {} of {} executions of this server in flight", self.taken, self.limit)
    }

    fn taken_by_namespace(&self, namespace: &NamespaceId) -> usize {
        self.namespaces.get(namespace).map_or(0, |namespace| namespace.taken)
    }

    fn taken_by(&self, owner: &Owner) -> usize {
        let namespace = self.namespaces.get(&owner.namespace);
        namespace
            .and_then(|namespace| namespace.pipelines.get(&owner.pipeline))
            .map_or(0, |pipeline| pipeline.taken)
    }

    /// Changes a pipeline and keeps its place in both orders right. The only door to what is
    /// counted.
    fn change<T>(&mut self, owner: &Owner, change: impl FnOnce(&mut Pipeline<W>) -> T) -> T {
        let Owner { namespace: name, pipeline: id } = owner;
        let namespace = self.namespaces.entry(name.clone()).or_insert_with(Namespace::empty);
        if let Some(key) = namespace.key(name, &self.bounds) {
            self.order.remove(&key);
        }

        let pipeline = namespace.pipelines.entry(id.clone()).or_insert_with(Pipeline::empty);
        if let Some(key) = pipeline.key(id, self.limit_per_pipeline) {
            namespace.ready.remove(&key);
        }

        let before = pipeline.taken;
        let result = change(pipeline);
        namespace.taken = namespace.taken - before + pipeline.taken;
        self.taken = self.taken - before + pipeline.taken;
        if let Some(key) = pipeline.key(id, self.limit_per_pipeline) {
            namespace.ready.insert(key);
        }

        if pipeline.taken == 0 && pipeline.waiting.is_empty() {
            namespace.pipelines.remove(id);
        }

        if let Some(key) = namespace.key(name, &self.bounds) {
            self.order.insert(key);
        }

        if namespace.pipelines.is_empty() {
            self.namespaces.remove(name);
        }

        result
    }
}

impl<W> Namespace<W> {
    fn empty() -> Self {
        Self { taken: 0, pipelines: HashMap::new(), ready: BTreeSet::new() }
    }

    /// Its place in the order, if it is below its bound.
    fn key(&self, name: &NamespaceId, bounds: &Bounds) -> Option<(FairOrder<Ticket>, NamespaceId)> {
        let first = self.ready.first().filter(|_| self.taken < bounds.limit(name));
        let &(of_pipeline, waits_since, _) = first?;
        let turn = FairOrder { of_namespace: self.taken, of_pipeline, waits_since };
        Some((turn, name.clone()))
    }
}

impl<W> Pipeline<W> {
    fn empty() -> Self {
        Self { taken: 0, waiting: BTreeMap::new() }
    }

    fn key(&self, id: &PipelineId, limit: usize) -> Option<(usize, Ticket, PipelineId)> {
        let (ticket, _) = self.waiting.first_key_value().filter(|_| self.taken < limit)?;
        Some((self.taken, *ticket, id.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(namespace: usize, pipeline: usize) -> Owner {
        Owner {
            namespace: NamespaceId::new(format!("n{namespace}")).unwrap(),
            pipeline: PipelineId::new(format!("p{pipeline}")).unwrap(),
        }
    }

    /// Lets everybody in for whom there is a slot; who that was.
    fn admit_all<W>(queue: &mut Queue<W>) -> Vec<W> {
        std::iter::from_fn(|| queue.admit()).collect()
    }

    #[test]
    fn ten_thousand_waiting_starts_of_one_pipeline_keep_no_other_waiting() {
        for other in [owner(0, 1), owner(1, 0)] {
            let mut queue = Queue::new(4, None);
            let greedy = owner(0, 0);
            (0..4).for_each(|_| queue.take(&greedy));

            for _ in 0..10_000 {
                queue.join(&greedy, "greedy");
            }

            queue.join(&other, "other");
            queue.give_back(&greedy);
            assert_eq!(admit_all(&mut queue), ["other"], "one release is enough");

            // From there on they share.
            queue.join(&other, "other");
            let mut admitted = Vec::new();
            for _ in 0..2 {
                queue.give_back(&greedy);
                admitted.extend(admit_all(&mut queue));
            }

            assert_eq!(admitted, ["other", "greedy"], "two each, then who waits longest");
        }
    }

    #[test]
    fn a_namespace_of_many_pipelines_gets_no_more_than_one_of_few() {
        let mut queue = Queue::new(6, None);
        for pipeline in 0..100 {
            for _ in 0..10 {
                queue.join(&owner(0, pipeline), 0);
            }
        }
        for _ in 0..10 {
            queue.join(&owner(1, 0), 1);
        }
        let admitted = admit_all(&mut queue);
        assert_eq!((admitted.len(), admitted.iter().sum::<i32>()), (6, 3), "{admitted:?}");
    }

    #[test]
    fn a_pipeline_at_its_limit_leaves_free_slots_to_others() {
        let mut queue = Queue::new(10, Some(2));
        let (bound, other) = (owner(0, 0), owner(0, 1));
        assert!(queue.try_take(&bound) && queue.try_take(&bound) && !queue.try_take(&bound));
        queue.join(&bound, "bound");
        assert_eq!(queue.why(&bound), "waiting: 2 of 2 executions of pipeline n0/p0 in flight");
        assert!(admit_all(&mut queue).is_empty());
        assert!(queue.try_take(&other));
        queue.give_back(&bound);
        assert_eq!(admit_all(&mut queue), ["bound"]);
    }

    #[test]
    fn what_is_found_running_counts_beyond_the_limit() {
        let mut queue = Queue::new(1, None);
        let one = owner(0, 0);
        queue.take(&one);
        queue.take(&one);
        queue.join(&one, ());
        assert_eq!(queue.why(&one), "waiting: 2 of 1 executions of this server in flight");
        queue.give_back(&one);
        assert!(admit_all(&mut queue).is_empty(), "one is still in flight, and one is allowed");
        queue.give_back(&one);
        assert_eq!(admit_all(&mut queue).len(), 1);
    }

    #[test]
    fn who_has_neither_slots_nor_waits_is_forgotten() {
        let mut queue = Queue::new(1, None);
        for pipeline in 0..100 {
            let ticket = queue.join(&owner(pipeline, pipeline), ());
            assert!(queue.leave(&owner(pipeline, pipeline), ticket));
            assert!(!queue.leave(&owner(pipeline, pipeline), ticket), "it left once");
        }
        assert!(queue.namespaces.is_empty() && queue.order.is_empty() && queue.taken() == 0);
    }

    fn shared(limits: &[(usize, usize)]) -> Bounds {
        let of_namespace = limits
            .iter()
            .map(|(namespace, limit)| (owner(*namespace, 0).namespace, *limit))
            .collect();
        Bounds { of_namespace, keeps_some_free: true, ..Bounds::default() }
    }

    #[test]
    fn one_namespace_leaves_slots_for_another_and_that_for_a_third() {
        let mut queue = Queue::new(64, None);
        queue.bound(shared(&[]));
        let mut had = Vec::new();

        for namespace in 0..4 {
            had.push(
                std::iter::repeat_with(|| queue.try_take(&owner(namespace, 0)))
                    .take_while(|taken| *taken)
                    .count(),
            );
        }

        assert_eq!(had, [56, 7, 1, 0]);
        queue.join(&owner(0, 0), ());
        let why = queue.why(&owner(0, 0));
        assert_eq!(why, "waiting: 64 of 64 executions of this server in flight");
        queue.give_back(&owner(0, 0));
        assert!(admit_all(&mut queue).is_empty(), "what came free is for those with fewer");

        let why = queue.why(&owner(0, 0));
        let kept = "and the last 1 of 64 slots of this server are kept for namespaces with fewer";
        assert_eq!(why, format!("waiting: 55 executions of namespace n0 in flight, {kept}"));
        queue.bound(Bounds::default());
        assert_eq!(admit_all(&mut queue).len(), 1, "there are no others any more");
    }

    #[test]
    fn a_namespace_that_is_alone_or_a_server_with_few_slots_keeps_nothing_free() {
        for (slots, bounds) in [(64, Bounds::default()), (7, shared(&[])), (1, shared(&[]))] {
            let mut queue: Queue<()> = Queue::new(slots, None);
            queue.bound(bounds);
            assert!((0..slots).all(|_| queue.try_take(&owner(0, 0))), "{slots}");
        }
    }

    #[test]
    fn a_namespace_at_its_quota_waits_and_says_so() {
        let mut queue = Queue::new(10, None);
        queue.bound(Bounds { keeps_some_free: false, ..shared(&[(0, 2)]) });
        let (bound, other) = (owner(0, 0), owner(1, 0));
        assert!(queue.try_take(&bound) && queue.try_take(&bound) && !queue.try_take(&bound));
        queue.join(&bound, "bound");
        let why = "waiting: 2 of 2 executions of namespace n0 in flight on this server (quota \
                   `executions`)";
        assert_eq!(queue.why(&bound), why);
        assert!(admit_all(&mut queue).is_empty() && queue.try_take(&other));
        queue.bound(shared(&[(0, 3)]));
        assert_eq!(admit_all(&mut queue), ["bound"], "a raised quota counts at once");
    }

    /// The rule in its own words, by looking at everybody.
    #[derive(Default)]
    struct Model {
        taken: Vec<(usize, usize)>,
        waiting: Vec<((usize, usize), u64)>,
    }

    impl Model {
        fn turn(&self, limit: usize, per_pipeline: usize, bounds: &Bounds) -> Option<u64> {
            let of_namespace = |wanted: usize| {
                self.taken.iter().filter(|(namespace, _)| *namespace == wanted).count()
            };

            let of_pipeline = |wanted: (usize, usize)| {
                self.taken.iter().filter(|owner| **owner == wanted).count()
            };

            let free = limit.saturating_sub(self.taken.len());
            let within = |namespace: usize| {
                of_namespace(namespace) < bounds.limit(&owner(namespace, 0).namespace)
                    && (!bounds.keeps_some_free || of_namespace(namespace) < 7 * free)
            };

            let may = self
                .waiting
                .iter()
                .filter(|(owner, _)| of_pipeline(*owner) < per_pipeline && within(owner.0));
            let next = may.min_by_key(|(owner, ticket)| {
                (of_namespace(owner.0), of_pipeline(*owner), *ticket)
            })?;

            (self.taken.len() < limit).then_some(next.1)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Start(usize, usize),
        Found(usize, usize),
        End(usize),
        GiveUp(usize),
        Bound(usize, usize, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3usize, 0..3usize).prop_map(|(namespace, pipeline)| Step::Start(namespace, pipeline)),
            1 => (0..3usize, 0..3usize).prop_map(|(namespace, pipeline)| Step::Found(namespace, pipeline)),
            3 => any::<usize>().prop_map(Step::End),
            1 => any::<usize>().prop_map(Step::GiveUp),
            1 => (0..3usize, 0..6usize, any::<bool>()).prop_map(|(namespace, limit, keeps)| Step::Bound(namespace, limit, keeps)),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn slots_go_by_the_rule(steps in steps(), limit in 1..20usize, per_pipeline in proptest::option::of(1..4usize)) {
            let mut queue = Queue::new(limit, per_pipeline);
            let most = per_pipeline.unwrap_or(usize::MAX);
            let mut model = Model::default();
            let mut bounds = Bounds::default();
            let mut started = 0;
            for step in steps {
                match step {
                    Step::Start(namespace, pipeline) => {
                        let at_once = queue.try_take(&owner(namespace, pipeline));
                        model.waiting.push(((namespace, pipeline), started));
                        prop_assert_eq!(at_once, model.turn(limit, most, &bounds) == Some(started));
                        if at_once {
                            model.taken.push(model.waiting.pop().expect("it was just pushed").0);
                        } else {
                            let ticket = queue.join(&owner(namespace, pipeline), started);
                            model.waiting.last_mut().expect("it was just pushed").1 = ticket.0;
                        }
                        started = queue.next_ticket.0;
                    }
                    Step::Found(namespace, pipeline) => {
                        queue.take(&owner(namespace, pipeline));
                        model.taken.push((namespace, pipeline));
                    }
                    Step::End(at) if !model.taken.is_empty() => {
                        let (namespace, pipeline) = model.taken.swap_remove(at % model.taken.len());
                        queue.give_back(&owner(namespace, pipeline));
                    }
                    Step::GiveUp(at) if !model.waiting.is_empty() => {
                        let ((namespace, pipeline), ticket) = model.waiting.remove(at % model.waiting.len());
                        prop_assert!(queue.leave(&owner(namespace, pipeline), Ticket(ticket)));
                    }
                    Step::Bound(namespace, of_namespace, keeps) => {
                        bounds = Bounds { keeps_some_free: keeps, ..shared(&[(namespace, of_namespace)]) };
                        queue.bound(bounds.clone());
                    }
                    Step::End(_) | Step::GiveUp(_) => {}
                }
                while let Some(next) = model.turn(limit, most, &bounds) {
                    prop_assert_eq!(queue.admit(), Some(next));
                    let at = model.waiting.iter().position(|(_, ticket)| *ticket == next).expect("it waits");
                    model.taken.push(model.waiting.remove(at).0);
                }
                prop_assert_eq!(queue.admit(), None);
                prop_assert_eq!(queue.taken(), model.taken.len());
            }
        }
    }
}
