//! Where a run's time goes: single stories, and what holds of every story.

use std::collections::BTreeMap;

use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::journal::RunSnapshot;
use gofer_core::pipeline::{Condition, PipelineSpec};
use gofer_core::run::{
    AttemptRecord, CancelRequest, LogState, Reason, ReasonKind, RunState, RunStatus, TaskState,
};
use gofer_core::scheduler::ExecutionState;
use gofer_core::{Attempt, RunNumber, TaskId, Timestamp};
use gofer_engine::rules::{Input, Machine, SchedulerFacts};
use gofer_engine::timeline::{self, Phase, RunFacts, Span};
use proptest::prelude::*;

use crate::support::{id, pipeline, retried, snapshot, task};

const SECOND: i64 = 1_000_000;

/// What a journal would keep of a machine's run.
struct Book {
    stored: RunSnapshot,
    machine: Machine,
    now: Timestamp,
    attempts: BTreeMap<TaskId, Vec<AttemptRecord>>,
    events: Vec<NewEvent>,
}

impl Book {
    /// A run that waits for two seconds, and is looked at half a second after its claim.
    fn begin(spec: PipelineSpec) -> Self {
        let mut stored = snapshot(spec);
        stored.run.started_at = Some(Timestamp(2 * SECOND));
        let machine = Machine::new(stored.clone(), SchedulerFacts::default());
        let mut book = Self {
            stored,
            machine,
            now: Timestamp(0),
            attempts: BTreeMap::new(),
            events: Vec::new(),
        };
        book.at(2.5, Input::Claimed);
        book
    }

    fn at(&mut self, seconds: f64, input: Input) {
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a test")]
        let now = (seconds * SECOND as f64) as i64;
        self.now = Timestamp(now);

        for input in [Input::Tick, input] {
            if let Input::CancelRun(request) = &input {
                self.stored.run.cancel.get_or_insert(request.clone());
            }

            let decision = self.machine.step(self.now, input);
            for change in decision.tasks {
                let task = change.to.task.clone();
                self.attempts.entry(task.clone()).or_default().extend(change.ended);
                self.stored.tasks.insert(task, change.to);
            }

            if let Some(run) = decision.run {
                (self.stored.run.state, self.stored.run.reason) = (run.to, run.reason);
                self.stored.run.ended_at = Some(run.at);
            }

            self.events.extend(decision.events);
        }
    }

    fn observe(&mut self, seconds: f64, task: &str, state: ExecutionState) {
        let attempt = self.stored.tasks[&id(task)].attempt;
        self.at(seconds, Input::Observed(id(task), attempt, state.into()));
    }

    fn exit(&mut self, seconds: f64, task: &str, code: i32) {
        self.observe(seconds, task, ExecutionState::Exited { code, oom: false, signal: None });
    }

    fn archive(&mut self, task: &str, attempt: u32, at: Timestamp) {
        let records = self.attempts.get_mut(&id(task)).unwrap();
        records.iter_mut().find(|record| record.attempt.0 == attempt).unwrap().log =
            LogState::Archived;
        let subject =
            Subject { task: Some(id(task)), attempt: Some(Attempt(attempt)), ..Subject::default() };
        let details = EventDetails::LogArchived { size_bytes: 1 };
        self.events.push(NewEvent { at, actor: "gofer".to_owned(), subject, details });
    }

    fn spans(&self, task: &str) -> Vec<Span> {
        let own = |event: &&NewEvent| event.subject.task == Some(id(task));
        let events: Vec<NewEvent> = self.events.iter().filter(own).cloned().collect();
        let none = Vec::new();
        timeline::of_task(
            &self.stored,
            &id(task),
            self.attempts.get(&id(task)).unwrap_or(&none),
            &events,
        )
    }

    fn facts(&self) -> RunFacts {
        let logs = self.attempts.values().flatten().filter(|record| record.log == LogState::Live);
        let archived = self
            .events
            .iter()
            .filter(|event| matches!(event.details, EventDetails::LogArchived { .. }));
        RunFacts {
            live_logs: logs.count() as u64,
            last_archived: archived.map(|event| event.at).max(),
            ..RunFacts::default()
        }
    }
}

/// `phase attempt from-to: why`, in seconds.
fn told(spans: &[Span]) -> Vec<String> {
    let seconds = |at: Timestamp| at.0 as f64 / SECOND as f64;
    let line = |span: &Span| {
        let to = span.to.map_or_else(String::new, |to| seconds(to).to_string());
        let attempt = span.attempt.map_or(0, |attempt| attempt.0);
        format!("{:?} {attempt} {}-{to}: {}", span.phase, seconds(span.from), span.why)
    };
    spans.iter().map(line).collect()
}

fn waiting(seconds: f64, book: &mut Book, task: &str, why: &str) {
    let attempt = book.stored.tasks[&id(task)].attempt;
    book.at(seconds, Input::Waiting(id(task), attempt, why.to_owned()));
}

#[test]
fn a_chain_waits_for_its_parents_for_a_slot_and_for_the_scheduler() {
    let mut book =
        Book::begin(pipeline(vec![task("a", &[]), task("b", &[("a", Condition::Success)])]));
    assert_eq!(told(&book.spans("b")), ["WaitingForParents 0 2-: waits for task `a`"]);
    waiting(4.0, &mut book, "a", "waiting: 1 of 1 executions of this server in flight");
    assert_eq!(
        told(&book.spans("a")),
        [
            "Queued 0 2-2.5: waits for a server to look at it",
            "WaitingForSlot 1 2.5-: waiting: 1 of 1 executions of this server in flight",
        ]
    );
    book.at(5.0, Input::SlotAcquired(id("a"), Attempt(1)));
    book.observe(6.0, "a", ExecutionState::Queued { reason: "no node is free".to_owned() });
    assert_eq!(told(&book.spans("a"))[2..], ["Starting 1 5-: no node is free"]);
    book.observe(7.0, "a", ExecutionState::Running);
    assert_eq!(told(&book.spans("a"))[3..], ["Running 1 7-: "]);
    book.exit(9.0, "a", 0);
    book.observe(9.5, "b", ExecutionState::Running);
    book.exit(11.0, "b", 3);
    book.archive("a", 1, Timestamp(10 * SECOND));
    book.archive("b", 1, Timestamp(12 * SECOND));
    assert_eq!(
        told(&book.spans("a"))[1..],
        [
            "WaitingForSlot 1 2.5-5: waiting: 1 of 1 executions of this server in flight",
            "Starting 1 5-7: no node is free",
            "Running 1 7-9: ended successfully",
            "Archiving 1 9-10: logs went into the object store",
        ]
    );
    assert_eq!(
        told(&book.spans("b")),
        [
            "WaitingForParents 0 2-9: task `a` was the last parent to end, successfully",
            "Starting 1 9-9.5: ",
            "Running 1 9.5-11: ended with exit code 3",
            "Archiving 1 11-12: logs went into the object store",
        ]
    );

    let facts = RunFacts { made_room: Some(RunNumber(7)), ..book.facts() };
    assert_eq!(
        told(&timeline::of_run(&book.stored.run, &facts)),
        [
            "Queued 0 0-2: waited for a place of its pipeline's parallelism, until run 7 ended",
            "Running 0 2-11: task `b` ended with exit code 3",
            "Archiving 0 11-12: logs went into the object store",
        ]
    );
}

#[test]
fn retries_stops_and_skips_are_told() {
    let edges = [("a", Condition::Success)];
    let mut book = Book::begin(pipeline(vec![retried(task("a", &[]), 2), task("b", &edges)]));
    book.observe(3.0, "a", ExecutionState::Running);
    book.exit(4.0, "a", 1);
    assert_eq!(
        told(&book.spans("a"))[3..],
        ["RetryBackoff 1 4-: after attempt 1: ended with exit code 1"]
    );
    book.at(5.0, Input::Tick);
    book.observe(5.5, "a", ExecutionState::Running);

    let at = Timestamp(7 * SECOND);
    let cancel = CancelRequest { at, by: "ann".to_owned(), force: false, message: String::new() };
    book.at(7.0, Input::CancelRun(cancel));
    assert_eq!(told(&book.spans("a")).last().unwrap(), "Stopping 2 7-: cancelled by ann");
    book.exit(8.0, "a", 143);
    book.archive("a", 1, Timestamp(6 * SECOND));
    assert_eq!(
        told(&book.spans("a"))[3..],
        [
            "RetryBackoff 1 4-5: after attempt 1: ended with exit code 1",
            "Starting 2 5-5.5: ",
            "Running 2 5.5-7: ",
            "Stopping 2 7-8: cancelled by ann",
            "Archiving 2 8-: 1 log is still with the scheduler",
        ]
    );
    assert_eq!(told(&book.spans("b")), ["WaitingForParents 0 2-7: cancelled by ann"]);
    assert_eq!(
        told(&timeline::of_run(&book.stored.run, &book.facts())),
        [
            "Queued 0 0-2: ",
            "Running 0 2-7: ",
            "Stopping 0 7-8: cancelled by ann",
            "Archiving 0 8-: 1 log is still with the scheduler",
        ]
    );

    let mut book = Book::begin(pipeline(vec![task("a", &[]), task("b", &edges)]));
    book.at(
        4.0,
        Input::Refused(id("a"), Attempt(1), Reason::new(ReasonKind::MissingValue, "no secret `x`")),
    );
    assert_eq!(told(&book.spans("a"))[1..2], ["Starting 1 2.5-4: no secret `x`"]);
    assert_eq!(
        told(&book.spans("b")),
        ["WaitingForParents 0 2-4: waits for task `a` to succeed, and that ended as failed"]
    );
}

#[test]
fn a_pending_run_and_one_that_never_ran_have_their_queue_alone() {
    let mut pending = snapshot(pipeline(vec![task("a", &[])]));
    (pending.run.state, pending.run.started_at) = (RunState::Pending, None);
    let waits =
        Some(Reason::new(ReasonKind::Waiting, "waiting: parallelism 1 of 1 in use by run 41"));
    let facts = RunFacts { waits, ..RunFacts::default() };
    assert_eq!(
        told(&timeline::of_run(&pending.run, &facts)),
        ["Queued 0 0-: waiting: parallelism 1 of 1 in use by run 41"]
    );
    assert_eq!(timeline::of_task(&pending, &id("a"), &[], &[]), []);
    pending.run.state = RunState::Complete(RunStatus::Cancelled);
    pending.run.ended_at = Some(pending.run.created_at);
    assert_eq!(timeline::of_run(&pending.run, &RunFacts::default()), []);
}

/// Something that happens to one of the tasks, so many tenths of a second later.
type Happening = (u8, usize, u8);

fn happen(book: &mut Book, now: &mut f64, (kind, task, tenths): Happening) {
    *now += f64::from(tenths) / 10.0;
    let name = ["a", "b", "c", "d"][task];
    let attempt = book.stored.tasks[&id(name)].attempt;
    let cancel = || CancelRequest {
        at: Timestamp(0),
        by: "ann".to_owned(),
        force: false,
        message: String::new(),
    };

    match kind {
        0 => waiting(*now, book, name, "waiting"),
        1 => book.at(*now, Input::SlotAcquired(id(name), attempt)),
        2 => book.observe(
            *now,
            name,
            ExecutionState::Queued { reason: format!("queued since {now}") },
        ),
        3 | 4 => book.observe(*now, name, ExecutionState::Running),
        5 | 6 => book.exit(*now, name, 0),
        7 => book.exit(*now, name, 1),
        8 => book.observe(*now, name, ExecutionState::Lost),
        9 => book.at(*now, Input::CancelTask(id(name), cancel())),
        10 => book.at(*now, Input::CancelRun(CancelRequest { at: book.now, ..cancel() })),
        _ => book.at(*now, Input::Tick),
    }
}

fn check(book: &Book, spans: &[Span], begin: Timestamp, end: Option<Timestamp>) {
    if spans.is_empty() {
        assert!(end.is_none_or(|end| end <= begin), "nothing is told of {begin}..{end:?}");
        return;
    }
    assert_eq!(spans[0].from, begin, "{:#?}", told(spans));
    for pair in spans.windows(2) {
        assert_eq!(pair[0].to, Some(pair[1].from), "a gap or overlap: {:#?}", told(spans));
    }
    assert_eq!(spans.last().unwrap().to, end, "at {}: {:#?}", book.now, told(spans));
    assert!(spans.iter().all(|span| span.to.is_none_or(|to| to > span.from)), "{:#?}", told(spans));
}

proptest! {
    #[test]
    fn every_instant_is_in_one_span(
        story in prop::collection::vec((0..13u8, 0..4usize, 0..30u8), 0..60),
        archived in any::<bool>(),
    ) {
        let edges = [("a", Condition::Success), ("b", Condition::Any)];
        let mut book = Book::begin(pipeline(vec![
            retried(task("a", &[]), 2),
            task("b", &[]),
            task("c", &edges),
            retried(task("d", &[("c", Condition::Any)]), 1),
        ]));
        let mut now = 2.5;
        for happening in story {
            happen(&mut book, &mut now, happening);
        }
        let mut last = BTreeMap::new();
        if archived {
            let all: Vec<(TaskId, u32, Timestamp)> = book.attempts.iter().flat_map(|(task, records)| {
                records.iter().map(|record| (task.clone(), record.attempt.0, Timestamp(record.ended_at.0 + SECOND)))
            }).collect();
            for (task, attempt, at) in all {
                book.archive(task.as_str(), attempt, at);
                last.insert(task, at);
            }
        }
        let begin = book.stored.run.started_at.unwrap();
        for (task, state) in &book.stored.tasks {
            let live = book.attempts.get(task).is_some_and(|all| all.iter().any(|one| one.log == LogState::Live));
            let never_tried = book.attempts.get(task).is_none_or(|all| !all.iter().any(|one| one.attempt == state.attempt));
            let end = match state.state {
                TaskState::Complete(_) if never_tried => state.ended_at,
                TaskState::Complete(_) if live => None,
                TaskState::Complete(_) => state.ended_at.max(last.get(task).copied()),
                _ => None,
            };
            let spans = book.spans(task.as_str());
            check(&book, &spans, begin, end);
            let phase = spans.last().map(|span| span.phase);
            match state.state {
                TaskState::Running if state.stop.is_none() => prop_assert_eq!(phase, Some(Phase::Running)),
                TaskState::Starting if state.reason.as_ref().is_some_and(|why| why.kind == ReasonKind::Waiting) => {
                    let expected = if state.stop.is_some() { Phase::Stopping } else { Phase::WaitingForSlot };
                    prop_assert_eq!(phase, Some(expected));
                }
                TaskState::Pending => prop_assert!(
                    matches!(phase, Some(Phase::WaitingForParents | Phase::RetryBackoff)), "{:?}", phase
                ),
                _ => {}
            }
        }
        let run = &book.stored.run;
        let facts = book.facts();
        let end = match run.ended_at {
            Some(_) if facts.live_logs > 0 => None,
            Some(ended) => Some(facts.last_archived.map_or(ended, |at| at.max(ended))),
            None => None,
        };
        check(&book, &timeline::of_run(run, &facts), run.created_at, end);
    }
}
