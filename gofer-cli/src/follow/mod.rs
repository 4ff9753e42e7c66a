//! Following a run: every change of its tasks, the logs that matter, and what it came to.
//!
//! ```text
//! FollowRun ──watch──> updates ──┐
//! StreamLogs ──logs──> news ─────┼──> follow: one loop ──> View ┬─ json: one object per line
//! signals ──> interrupts ────────┘      │                       └─ people: lines, and a live view below
//!                                       └── what it came to: the exit code
//! ```
//!
//! `reconnect` opens a stream again where it broke off; `seen` is what was learned so far.

mod json;
mod lines;
mod live;
pub(crate) mod logs;
mod people;
pub(crate) mod reconnect;
mod run_key;
mod screen;
mod seen;
mod view;

use std::collections::BTreeSet;
use std::time::Duration;

use gofer_proto::v1::{FollowRunRequest, RunState, RunStatus, run_update::Subject};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::json::JsonView;
pub(crate) use self::lines::{Lines, Stamps, Timeless};
use self::logs::{LogMode, LogNews, Logs, News};
use self::people::PeopleView;
pub(crate) use self::people::task_table;
use self::reconnect::Patience;
pub(crate) use self::run_key::RunKey;
pub(crate) use self::seen::{OnInterrupt, Seen};
use self::view::View;
use crate::client::{Client, unary};
use crate::errors::{Exit, Failure};
use crate::interrupts::{Interrupt, Interrupts};
use crate::output::Out;

/// Heartbeats come at least every 30 seconds; a server that says nothing for longer has gone.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(75);
/// Updates on their way to the view.
const UPDATES_MAX: usize = 64;
/// More are counted instead of named.
const NAMED_TASKS: usize = 5;
/// How often the live view is drawn again.
const TICK: Duration = Duration::from_millis(100);

/// How to follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) logs: LogMode,
    /// Show states and a summary, not only logs.
    pub(crate) states: bool,
    /// Show when each line of a log was written.
    pub(crate) timestamps: bool,
    pub(crate) on_interrupt: OnInterrupt,
}

/// Something from the background.
enum Update {
    Changed(Box<Subject>),
    Note(String),
}

/// Follows the run to its end.
///
/// # Errors
/// When the server refuses, or is gone for long; also when the run was successful, but a part of
/// what was to be shown is missing.
pub(crate) async fn follow(
    client: &Client,
    out: &Out,
    key: RunKey,
    options: Options,
    interrupts: &mut Interrupts,
) -> Result<Exit, Failure> {
    let mut view = choose(out, options.states, options.timestamps);
    let mut logs = Logs::new(client.clone(), key.clone(), options.logs);
    let (sender, mut updates) = mpsc::channel(UPDATES_MAX);

    // Dropped, and with it the watcher, when the following ends.
    let mut watcher = JoinSet::new();
    watcher.spawn(watch(client.clone(), key.clone(), sender));

    let mut ticks = tokio::time::interval_at(Instant::now() + TICK, TICK);
    let mut seen = Seen::default();
    let mut given_up = GivenUp::default();
    let mut asked_to_end = AskedToEnd::default();
    let mut complete = false;

    loop {
        tokio::select! {
            update = updates.recv(), if !complete => match update {
                Some(update) => apply(update?, &mut seen, &mut logs, view.as_mut())?,
                None => {
                    complete = true;
                    logs.close();
                }
            },
            news = logs.next() => match news {
                Some(news) => {
                    given_up.note(&news);
                    view.log(news)?;
                }
                None => break,
            },
            _ = ticks.tick(), if view.is_live() && !seen.tasks.is_empty() => view.tick(&seen),
            interrupt = interrupts.next() => {
                if !asked_to_end.counts(interrupt) {
                    continue;
                }
                if options.on_interrupt == OnInterrupt::Leave || asked_to_end.times > 2 {
                    view.leave(&key, options.on_interrupt)?;
                    return Ok(interrupt.exit());
                }
                cancel(client, &key, asked_to_end.times > 1, interrupt, view.as_mut()).await?;
            }
        }
    }

    view.finish(&seen)?;
    let came_to = match (seen.run.status(), asked_to_end.first) {
        (RunStatus::Successful, _) => Exit::Ok,
        (RunStatus::Cancelled, Some(interrupt)) => interrupt.exit(),
        _ => Exit::RunFailed,
    };

    // A run that has failed is what matters more, and the code says already that something is
    // wrong.
    match given_up.failure() {
        Some(failure) if came_to == Exit::Ok || !options.states => Err(failure),
        Some(failure) => {
            view.note(failure.render().trim_end())?;
            Ok(came_to)
        }
        None => Ok(came_to),
    }
}

/// JSON if it is asked for, otherwise lines for people, and on a terminal a live view below them.
fn choose(out: &Out, states: bool, timestamps: bool) -> Box<dyn View + '_> {
    if out.is_json() {
        Box::new(JsonView::new(out, states))
    } else {
        Box::new(PeopleView::new(out, states && !out.is_quiet(), timestamps))
    }
}

/// The signals so far.
#[derive(Debug, Default)]
struct AskedToEnd {
    first: Option<Interrupt>,
    times: u32,
}

impl AskedToEnd {
    /// Whether this one asks for something new. A terminal that is closed is told by the kernel and
    /// by the shell.
    fn counts(&mut self, interrupt: Interrupt) -> bool {
        if interrupt == Interrupt::HangUp && self.times > 0 {
            return false;
        }
        self.first.get_or_insert(interrupt);
        self.times += 1;
        true
    }
}

/// Logs of which not everything could be shown.
#[derive(Debug, Default)]
pub(crate) struct GivenUp {
    tasks: BTreeSet<String>,
    exit: Option<Exit>,
}

impl GivenUp {
    /// Why the log of a task ended early.
    pub(crate) fn add(&mut self, task: &str, failure: &Failure) {
        self.tasks.insert(task.to_owned());
        self.exit.get_or_insert(failure.exit);
    }

    fn note(&mut self, news: &LogNews) {
        if let News::End(Some(failure)) = &news.what {
            self.add(&news.task, failure);
        }
    }

    /// What the command ends with, if there are any.
    pub(crate) fn failure(self) -> Option<Failure> {
        let named: Vec<_> =
            self.tasks.iter().take(NAMED_TASKS).map(|task| format!("`{task}`")).collect();
        let more = match self.tasks.len().saturating_sub(NAMED_TASKS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!(
            "the output is not complete: the logs of {}{more} were given up",
            named.join(", ")
        );
        self.exit.map(|exit| Failure::incomplete(exit, message))
    }
}

fn apply(
    update: Update,
    seen: &mut Seen,
    logs: &mut Logs,
    view: &mut dyn View,
) -> Result<(), Failure> {
    match update {
        Update::Note(text) => view.note(&text),
        Update::Changed(subject) => match *subject {
            // After a cut everything is said again.
            Subject::Run(run) if run == seen.run => Ok(()),
            Subject::TaskRun(task) if seen.tasks.get(&task.task) == Some(&task) => Ok(()),
            Subject::Run(run) => {
                view.run(&run)?;
                seen.run = run;
                Ok(())
            }
            Subject::TaskRun(task) => {
                view.task(&task)?;
                logs.consider(&task);
                seen.tasks.insert(task.task.clone(), task);
                Ok(())
            }
        },
    }
}

async fn cancel(
    client: &Client,
    key: &RunKey,
    force: bool,
    why: Interrupt,
    view: &mut dyn View,
) -> Result<(), Failure> {
    view.note(match force {
        false => "cancelling the run; Ctrl-C again kills its tasks at once",
        true => "killing the run's tasks; Ctrl-C again does not wait for them",
    })?;
    match client.runs().cancel_run(unary(key.cancel_request(force, why))).await {
        Ok(_) => Ok(()),
        Err(status) => view.note(Failure::from(status).render().trim_end()),
    }
}

/// Sends every change of the run until it is complete, also over a server's restart.
async fn watch(client: Client, key: RunKey, sender: mpsc::Sender<Result<Update, Failure>>) {
    let request =
        FollowRunRequest { namespace: key.namespace, pipeline: key.pipeline, run: key.run };
    let mut patience = Patience::new(client.contact());

    loop {
        let Some(cut) = watch_once(&client, &request, &sender, &mut patience).await else { return };
        match patience.after(cut) {
            Err(failure) => {
                let _ = sender.send(Err(failure)).await;
                return;
            }
            Ok(pause) => {
                if let Some(note) = pause.note {
                    let _ = sender.send(Ok(Update::Note(note))).await;
                }
                tokio::time::sleep(pause.delay).await;
            }
        }
    }
}

/// One stream: `None` when there is nothing more to say, otherwise why it was cut.
async fn watch_once(
    client: &Client,
    request: &FollowRunRequest,
    sender: &mpsc::Sender<Result<Update, Failure>>,
    patience: &mut Patience,
) -> Option<Failure> {
    let mut stream = match client.runs().follow_run(request.clone()).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Some(Failure::from(status)),
    };

    patience.opened();
    let mut complete = false;
    loop {
        let message = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
            Err(_) => return Some(Failure::unreachable("the server has fallen silent")),
            Ok(Err(status)) => return Some(Failure::from(status)),
            Ok(Ok(None)) if complete => return None,
            Ok(Ok(None)) => {
                return Some(Failure::unreachable(
                    "the server ended the stream before the run ended",
                ));
            }
            Ok(Ok(Some(message))) => message,
        };

        patience.progress();
        if let Some(subject) = message.update.and_then(|update| update.subject) {
            complete |= matches!(&subject, Subject::Run(run) if run.state() == RunState::Complete);
            if sender.send(Ok(Update::Changed(Box::new(subject)))).await.is_err() {
                return None;
            }
        }
    }
}
