//! What must hold once everything is over: nothing lost, nothing doubled, nothing left.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use gofer_proto::v1;
use gofer_proto::v1::event::Details;
use gofer_proto::v1::event_service_client::EventServiceClient;
use gofer_proto::v1::run_service_client::RunServiceClient;
use gofer_proto::v1::task_run_service_client::TaskRunServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::load::Done;
use super::shapes::{LINES, mark};
use crate::serving::{OwnToken, SOON, Serving};

/// Between two looks at what has not settled yet.
const AGAIN: Duration = Duration::from_millis(50);

/// Checks everything about these runs, which are all there are.
pub(crate) fn check(server: &Serving, marks: &Path, done: &[Done], logs: Logs) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(server.addr.clone()).expect("an address");
        let channel = InterceptedService::new(endpoint.connect_lazy(), server.own_token());
        let checker = Checker { channel, marks: read_marks(marks), logs };
        let mut known = 0;
        for one in done {
            known += checker.run(one).await;
        }
        assert_eq!(checker.marks.len(), known, "marks of attempts that no run has");
        checker.events(done).await;
    });
    nothing_is_left(&server.data_dir().join("executions"));
}

/// How logs must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logs {
    /// Every byte.
    Whole,
    /// The local scheduler had no room for some: a task goes on without its log.
    MayBreakOff,
}

/// Whether a log broke off, with or without the line that says so.
fn is_part(log: &str, expected: &str) -> bool {
    expected
        .starts_with(log.split("gofer: output from here on was dropped").next().unwrap_or_default())
}

fn default() -> String {
    "default".to_owned()
}

/// How often each mark was made.
fn read_marks(marks: &Path) -> BTreeMap<String, u32> {
    let text = std::fs::read_to_string(marks).expect("marks");
    let mut seen = BTreeMap::new();
    for mark in text.lines() {
        *seen.entry(mark.to_owned()).or_default() += 1;
    }
    seen
}

struct Checker {
    channel: InterceptedService<Channel, OwnToken>,
    marks: BTreeMap<String, u32>,
    logs: Logs,
}

impl Checker {
    /// Checks a run; returns how many marks it made.
    async fn run(&self, done: &Done) -> usize {
        let shape = done.shape();
        let request = v1::GetRunRequest {
            namespace: default(),
            pipeline: shape.name.to_owned(),
            run: done.run,
        };

        let mut service = RunServiceClient::new(self.channel.clone());
        let got = service.get_run(request).await.expect("the run").into_inner();
        let run = got.run.as_ref().expect("a run");
        assert_eq!((run.state(), run.status()), (v1::RunState::Complete, shape.status), "{got:#?}");
        assert_eq!(got.task_runs.len(), shape.tasks.len(), "{got:#?}");

        let mut marks = 0;
        for (name, status, attempts) in shape.tasks {
            let task = self.settled(done, name).await;
            assert_eq!((task.state(), task.losses), (v1::TaskRunState::Complete, 0), "{task:#?}");
            if shape.is_endless() {
                assert!(task.attempts.len() <= *attempts as usize, "{task:#?}");
            } else {
                assert_eq!(
                    (task.status(), task.attempts.len()),
                    (*status, *attempts as usize),
                    "{task:#?}"
                );
            }

            for attempt in &task.attempts {
                marks += self.attempt(done, name, attempt).await;
            }
        }

        marks
    }

    /// The task run with all its attempts, once their logs are archived.
    async fn settled(&self, done: &Done, task: &str) -> v1::TaskRun {
        let pipeline = done.shape().name.to_owned();
        let request = v1::GetTaskRunRequest {
            namespace: default(),
            pipeline,
            run: done.run,
            task: task.to_owned(),
        };

        let since = Instant::now();
        loop {
            let mut service = TaskRunServiceClient::new(self.channel.clone());
            let got =
                service.get_task_run(request.clone()).await.expect("the task run").into_inner();
            let got = got.task_run.expect("a task run");
            let mut states = got.attempts.iter().map(v1::Attempt::log_state);
            if states.all(|state| state != v1::LogState::Live) {
                return got;
            }

            assert!(since.elapsed() < SOON, "logs not archived within {SOON:?}: {got:#?}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// One mark for each attempt, and a whole log.
    async fn attempt(&self, done: &Done, task: &str, attempt: &v1::Attempt) -> usize {
        let shape = done.shape();
        let name = mark(shape.name, done.run, task, attempt.attempt);
        let marks = self.marks.get(&name).copied().unwrap_or_default();
        let log = self.log(done, task, attempt.attempt).await;

        if shape.is_endless() {
            assert!(marks <= 1, "`{name}`: executed {marks} times");
            let heard = log.is_empty() || (log == format!("out of {task}\n") && marks == 1);
            assert!(heard, "`{name}`: {marks} marks, log {log:?}");

            // Cancelled before it was executed: not known to the scheduler.
            assert!(
                attempt.log_state() != v1::LogState::Lost || marks == 0,
                "`{name}`: {attempt:#?}"
            );
            return usize::from(marks == 1);
        }

        assert_eq!(marks, 1, "`{name}`: how often it was executed");
        let state = if log.is_empty() { v1::LogState::None } else { v1::LogState::Archived };
        assert_eq!(attempt.log_state(), state, "`{name}`: {attempt:#?}");
        let mut expected = format!("out of {task}\n");
        if shape.talkative.contains(&task) {
            expected.extend((1..=LINES).map(|line| format!("{line}\n")));
        }

        let whole = log == expected || (self.logs == Logs::MayBreakOff && is_part(&log, &expected));
        assert!(
            whole,
            "`{name}`: {} bytes of log instead of {}: {log:?}",
            log.len(),
            expected.len()
        );

        1
    }

    async fn log(&self, done: &Done, task: &str, attempt: u32) -> String {
        let request = v1::StreamLogsRequest {
            namespace: default(),
            pipeline: done.shape().name.to_owned(),
            run: done.run,
            task: task.to_owned(),
            attempt,
            ..v1::StreamLogsRequest::default()
        };

        let mut service = TaskRunServiceClient::new(self.channel.clone());
        let mut chunks = match service.stream_logs(request).await {
            Ok(chunks) => chunks.into_inner(),
            // Of what was never started there is none.
            Err(status) if status.code() == tonic::Code::NotFound => return String::new(),
            Err(status) => panic!("{status:?}"),
        };

        let mut bytes = Vec::new();
        while let Some(reply) = chunks.message().await.expect("a chunk") {
            bytes.extend(reply.chunk.into_iter().flat_map(|chunk| chunk.data));
        }

        String::from_utf8(bytes).expect("text")
    }

    /// No gap, and each run's story in its order, told once.
    async fn events(&self, done: &[Done]) {
        let (mut last, mut stories) = (0, BTreeMap::<(String, u64), Story>::new());
        loop {
            let request = v1::ListEventsRequest {
                after_id: last,
                page_size: 500,
                ..v1::ListEventsRequest::default()
            };

            let mut service = EventServiceClient::new(self.channel.clone());
            let page = service.list_events(request).await.expect("events").into_inner().events;
            if page.is_empty() {
                break;
            }

            for event in page {
                assert_eq!(event.id, last + 1, "a gap in the events");
                last = event.id;
                if event.run != 0 {
                    stories.entry((event.pipeline.clone(), event.run)).or_default().hear(&event);
                }
            }
        }

        for one in done {
            let story = stories
                .remove(&(one.shape().name.to_owned(), one.run))
                .expect("the run has events");
            assert_eq!(story.run, 3, "{one:?}: not complete, by its events");
            assert!(
                story.tasks.values().all(|(_, state)| *state == Attempt::Over),
                "{one:?}: {story:?}"
            );
        }

        assert!(stories.is_empty(), "runs that nobody started: {:?}", stories.keys());
    }
}

/// How far the events of a run have told it.
#[derive(Debug, Default)]
struct Story {
    /// Created, started, complete: 1 to 3.
    run: u8,
    /// Each task's newest attempt.
    tasks: BTreeMap<String, (u32, Attempt)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Starting,
    Running,
    /// To be repeated, or for good.
    Over,
}

impl Story {
    fn hear(&mut self, event: &v1::Event) {
        let at = (self.run, self.tasks.get(&event.task).copied());
        match event.details.as_ref().expect("details") {
            Details::RunCreated(_) => self.turn(0, 1, event),
            Details::RunStarted(_) => self.turn(1, 2, event),
            // One that waits in its queue may be cancelled there.
            Details::RunCompleted(_) => self.turn(self.run.clamp(1, 2), 3, event),
            Details::TaskRunStarting(_) => {
                let before = at.1.map_or(0, |(attempt, _)| attempt);
                let over = at.1.is_none_or(|(_, state)| state == Attempt::Over);
                assert!(
                    over && event.attempt == before + 1,
                    "started out of order: {event:?} after {at:?}"
                );
                self.note(event, Attempt::Starting);
            }
            Details::TaskRunRunning(_) => {
                assert_eq!(
                    at.1,
                    Some((event.attempt, Attempt::Starting)),
                    "running out of order: {event:?}"
                );
                self.note(event, Attempt::Running);
            }
            Details::TaskRunRetryScheduled(_) => {
                let active = at.1.is_some_and(|(attempt, state)| {
                    attempt == event.attempt && state != Attempt::Over
                });
                assert!(active, "over out of order: {event:?} after {at:?}");
                self.note(event, Attempt::Over);
            }
            Details::TaskRunCompleted(_) => {
                let fits = match at.1 {
                    Some((attempt, Attempt::Starting | Attempt::Running)) => {
                        event.attempt == attempt
                    }
                    // The one that was next, and is not started any more.
                    Some((attempt, Attempt::Over)) => event.attempt > attempt,
                    None => event.attempt == 1,
                };

                assert!(fits, "complete out of order: {event:?} after {at:?}");
                self.note(event, Attempt::Over);
            }
            _ => {}
        }
    }

    fn turn(&mut self, from: u8, to: u8, event: &v1::Event) {
        assert_eq!(self.run, from, "the run's events are out of order: {event:?}");
        self.run = to;
    }

    fn note(&mut self, event: &v1::Event, state: Attempt) {
        assert_eq!(self.run, 2, "outside of its run: {event:?}");
        self.tasks.insert(event.task.clone(), (event.attempt, state));
    }
}

/// Archived executions are removed from the scheduler's directory, and nothing else is in it but
/// directories that wait for the next: each with an empty entry and an empty folder.
fn nothing_is_left(dir: &Path) {
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };

    let left = || {
        ["live", "x"].map(|part| {
            let mut entries = names(&dir.join(part));
            let waits = |name: &[u8]| name.starts_with(b"~") && !name.ends_with(b".gone");
            entries.retain(|name| part == "live" || !waits(name.as_encoded_bytes()));
            entries
        })
    };

    let since = Instant::now();
    while left().iter().any(|entries| !entries.is_empty()) {
        assert!(since.elapsed() < SOON, "left at the scheduler: {:?}", left());
        std::thread::sleep(AGAIN);
    }

    for spare in names(&dir.join("x")).iter().map(|name| dir.join("x").join(name)) {
        let mut inside = names(&spare);
        inside.sort_unstable();
        assert_eq!(inside, ["entry", "work"], "{}", spare.display());
        let (work, entry) =
            (names(&spare.join("work")), std::fs::metadata(spare.join("entry")).expect("an entry"));
        assert!(work.is_empty() && entry.len() == 0, "{}: {work:?}", spare.display());
    }
}
