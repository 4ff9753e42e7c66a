//! `gofer run logs`: what all tasks of a run wrote, each line with its task's name.

use std::ops::RangeInclusive;
use std::str::FromStr;

use gofer_proto::json::to_json;
use gofer_proto::v1::TaskRun;

use super::paging::PageArgs;
use super::task;
use crate::client::Client;
use crate::context::Context;
use crate::errors::{Exit, Failure};
use crate::follow::logs::{LogMode, LogReader};
use crate::follow::{self, GivenUp, Lines, OnInterrupt, Options, RunKey, Timeless};
use crate::interrupts::Interrupts;
use crate::output::printable;

/// Which attempts of each task.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attempts {
    All,
    Exactly(u32),
}

impl FromStr for Attempts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(attempt)) if attempt > 0 => Ok(Self::Exactly(attempt)),
            _ => Err("an attempt has a number from 1; `all` are all of them".to_owned()),
        }
    }
}

/// Shows the logs one after the other, or, while following, as they come.
pub(super) async fn show(
    context: &Context,
    client: &Client,
    key: RunKey,
    attempts: Option<Attempts>,
    follow: bool,
    timestamps: bool,
) -> Result<Exit, Failure> {
    if follow {
        return follow_logs(context, client, key, attempts, timestamps).await;
    }

    let (mut tasks, _) = task::list(client, &key, &PageArgs::everything()).await?;
    tasks.retain(|task| task.started_at.is_some() || task.attempt > 1);
    tasks.sort_by_key(|task| task.started_at.map(|at| (at.seconds, at.nanos)));
    let shown: Vec<_> =
        tasks.iter().flat_map(|task| chosen(task, attempts).map(move |at| (task, at))).collect();
    let label = |task: &TaskRun, attempt| label(task, attempt, attempts);
    let width = shown
        .iter()
        .map(|(task, attempt)| label(task, *attempt).chars().count())
        .max()
        .unwrap_or(0);

    let mut given_up = GivenUp::default();
    for (task, attempt) in &shown {
        let prefix = format!("{:width$} | ", label(task, *attempt));
        let reader = LogReader::new(client.clone(), key.log_request(&task.task, *attempt, false));
        let shown =
            prefixed_log(context, reader, (&task.task, *attempt), &prefix, timestamps).await;

        if let Err(failure) = shown {
            // One log that has expired does not hide the others.
            context.out.note(&format!("log of `{}`: {}", task.task, failure.render().trim_end()));
            given_up.add(&task.task, &failure);
        }

        if context.out.closed() {
            return Ok(Exit::Ok);
        }
    }

    for hidden in tasks.iter().filter_map(|task| hidden(task, attempts)) {
        context.out.note(&hidden);
    }

    given_up.failure().map_or(Ok(Exit::Ok), Err)
}

async fn follow_logs(
    context: &Context,
    client: &Client,
    key: RunKey,
    attempts: Option<Attempts>,
    timestamps: bool,
) -> Result<Exit, Failure> {
    let logs = match attempts {
        Some(Attempts::Exactly(attempt)) => LogMode::Attempt(attempt),
        Some(Attempts::All) | None => LogMode::All,
    };
    let options = Options { logs, states: false, timestamps, on_interrupt: OnInterrupt::Leave };
    let exit =
        follow::follow(client, &context.out, key, options, &mut Interrupts::catch()?).await?;
    // What was asked for are the logs, and all of them were shown.
    Ok(if exit == Exit::RunFailed { Exit::Ok } else { exit })
}

/// The attempts that are shown of a task.
fn chosen(task: &TaskRun, attempts: Option<Attempts>) -> RangeInclusive<u32> {
    match attempts {
        Some(Attempts::All) => 1..=task.attempt,
        Some(Attempts::Exactly(wanted)) => wanted..=wanted.min(task.attempt),
        None => task.attempt..=task.attempt,
    }
}

/// What a person should know who did not say which attempts.
fn hidden(task: &TaskRun, attempts: Option<Attempts>) -> Option<String> {
    let which = match (attempts, task.attempt) {
        (Some(_), _) | (None, 0 | 1) => return None,
        (None, 2) => "attempt 1".to_owned(),
        (None, last) => format!("attempts 1–{}", last - 1),
    };
    Some(format!("{which} of `{}` not shown: --attempt all", task.task))
}

/// The task, and which attempt if there are several.
fn label(task: &TaskRun, attempt: u32, attempts: Option<Attempts>) -> String {
    let several = matches!(attempts, Some(Attempts::All)) && task.attempt > 1;
    let name = printable(&task.task);
    if several { format!("{name} ({attempt})") } else { name }
}

async fn prefixed_log(
    context: &Context,
    mut reader: LogReader,
    (task, attempt): (&str, u32),
    prefix: &str,
    timestamps: bool,
) -> Result<(), Failure> {
    let out = &context.out;
    let mut lines = Lines::for_stdout(timestamps);
    let mut timeless = Timeless::new(timestamps);

    while !out.closed()
        && let Some(piece) = reader.next().await?
    {
        let Some(chunk) = piece.chunk else { continue };
        if out.is_json() {
            let log =
                serde_json::json!({"task": task, "attempt": attempt, "chunk": to_json(&chunk)});
            out.json_line(&serde_json::json!({ "log": log }))?;
        } else {
            timeless.tell(out, &chunk);
            out.bytes(&lines.push((task, attempt), prefix, &chunk))?;
        }
    }

    out.bytes(&lines.end(task, attempt, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(attempt: u32) -> TaskRun {
        TaskRun { task: "build".into(), attempt, ..TaskRun::default() }
    }

    #[test]
    fn what_is_not_shown_is_said() {
        assert_eq!(hidden(&task(1), None), None);
        assert_eq!(
            hidden(&task(2), None).as_deref(),
            Some("attempt 1 of `build` not shown: --attempt all")
        );
        assert_eq!(
            hidden(&task(3), None).as_deref(),
            Some("attempts 1–2 of `build` not shown: --attempt all")
        );
        assert_eq!(hidden(&task(3), Some(Attempts::All)), None);
    }

    #[test]
    fn only_attempts_that_there_are_are_asked_for() {
        assert_eq!(chosen(&task(3), None).collect::<Vec<_>>(), [3]);
        assert_eq!(chosen(&task(3), Some(Attempts::All)).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(chosen(&task(3), Some(Attempts::Exactly(2))).collect::<Vec<_>>(), [2]);
        assert_eq!(chosen(&task(1), Some(Attempts::Exactly(2))).count(), 0);
    }

    #[test]
    fn an_attempt_is_a_number_or_all() {
        assert!(matches!("all".parse(), Ok(Attempts::All)));
        assert!(matches!("3".parse(), Ok(Attempts::Exactly(3))));
        for wrong in ["0", "-1", "latest", ""] {
            assert!(wrong.parse::<Attempts>().is_err(), "{wrong}");
        }
    }
}
