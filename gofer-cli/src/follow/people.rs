//! The view for people: a line per change, the logs with their task's name, a table at the end.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use gofer_proto::v1::{Run, RunState, RunStatus, TaskRun, TaskRunState, TaskRunStatus};

use super::lines::Lines;
use super::live::Live;
use super::logs::{LogNews, News};
use super::run_key::RunKey;
use super::seen::{OnInterrupt, Seen};
use super::view::View;
use crate::errors::Failure;
use crate::output::{Out, printable};
use crate::{format, output};

pub(super) struct PeopleView<'a> {
    out: &'a Out,
    states: bool,
    live: Option<Live>,
    colours: bool,
    lines: Lines,
    /// What was last said of each task.
    said: BTreeMap<String, String>,
    /// Width of the longest task id so far.
    width: usize,
}

impl<'a> PeopleView<'a> {
    pub(super) fn new(out: &'a Out, states: bool, timestamps: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let live = (states && terminal && std::io::stderr().is_terminal()).then(Live::new);
        let lines = Lines::for_stdout(timestamps);
        Self { out, states, live, colours, lines, said: BTreeMap::new(), width: 0 }
    }

    /// Writes above the live view.
    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        match &self.live {
            _ if bytes.is_empty() => Ok(()),
            Some(live) => live.suspend(|| self.out.bytes(bytes)),
            None => self.out.bytes(bytes),
        }
    }

    fn line(&self, line: &str) -> Result<(), Failure> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// `12:00:01  build  failed (2.1s): exit code 1`.
    fn task_line(&self, task: &TaskRun) -> String {
        let now = format::clock(jiff::Timestamp::now());
        let state = self.coloured(task.status(), &format::task_state(task));
        let took = match task.state() {
            TaskRunState::Complete => {
                format::took(task.started_at.as_ref(), task.ended_at.as_ref())
            }
            _ => String::new(),
        };

        let mut line =
            format!("{now}  {:width$}  {state}", printable(&task.task), width = self.width);
        if !took.is_empty() {
            line += &format!(" ({took})");
        }

        if task.attempt > 1 {
            line += &format!(", attempt {}", task.attempt);
        }

        let reason = printable(&format::reason(task.reason.as_ref()));
        if reason.is_empty() { line } else { format!("{line}: {reason}") }
    }

    fn coloured(&self, status: TaskRunStatus, text: &str) -> String {
        let colour = match status {
            TaskRunStatus::Successful => "32",
            TaskRunStatus::Failed | TaskRunStatus::TimedOut => "31",
            TaskRunStatus::Cancelled | TaskRunStatus::Skipped => "33",
            TaskRunStatus::Unspecified => return text.to_owned(),
        };
        if self.colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn prefix(&self, task: &str) -> String {
        format!("{:width$} | ", printable(task), width = self.width)
    }
}

/// Whether a line is due: not while a task only waits, and in a live view only once it is over or
/// will be repeated.
fn worth_a_line(task: &TaskRun, live: bool) -> bool {
    match task.state() {
        TaskRunState::Complete => true,
        TaskRunState::Pending => task.not_before.is_some(),
        TaskRunState::Starting => !live && task.reason.is_some(),
        TaskRunState::Running => !live,
        TaskRunState::Unspecified => false,
    }
}

impl View for PeopleView<'_> {
    fn run(&mut self, run: &Run) -> Result<(), Failure> {
        let waits = run.state() == RunState::Pending && run.reason.is_some();
        if !self.states || !waits {
            return Ok(());
        }
        self.line(&format!(
            "{} waits: {}",
            format::run_name(run),
            printable(&format::reason(run.reason.as_ref()))
        ))
    }

    fn task(&mut self, task: &TaskRun) -> Result<(), Failure> {
        self.width = self.width.max(task.task.len());
        if !self.states || !worth_a_line(task, self.live.is_some()) {
            return Ok(());
        }
        let now_said = format!("{:?} {} {:?}", task.state(), task.attempt, task.reason);
        if self.said.insert(task.task.clone(), now_said.clone()).as_ref() == Some(&now_said) {
            return Ok(());
        }
        self.line(&self.task_line(task))
    }

    fn log(&mut self, news: LogNews) -> Result<(), Failure> {
        let LogNews { task, attempt, what } = news;
        let prefix = self.prefix(&task);
        match what {
            News::Chunk(chunk) => {
                let shown = self.lines.push((&task, attempt), &prefix, &chunk);
                self.write(&shown)
            }
            News::LeftOut(bytes) => {
                self.line(&format!("{prefix}… {} before this are not shown", format::size(bytes)))
            }
            News::End(failure) => {
                let rest = self.lines.end(&task, attempt, &prefix);
                self.write(&rest)?;
                failure.map_or(Ok(()), |failure| {
                    self.note(&format!("log of `{task}`: {}", failure.render().trim_end()))
                })
            }
        }
    }

    fn note(&mut self, text: &str) -> Result<(), Failure> {
        match &self.live {
            Some(live) => live.suspend(|| self.out.note(text)),
            None => self.out.note(text),
        }
        Ok(())
    }

    fn is_live(&self) -> bool {
        self.live.is_some()
    }

    fn tick(&mut self, seen: &Seen) {
        if let Some(live) = &mut self.live {
            live.draw(seen);
        }
    }

    fn finish(&mut self, seen: &Seen) -> Result<(), Failure> {
        if let Some(live) = self.live.take() {
            live.clear();
        }

        if !self.states {
            return Ok(());
        }

        let run = &seen.run;
        let status = match run.status() {
            RunStatus::Successful => TaskRunStatus::Successful,
            RunStatus::Failed => TaskRunStatus::Failed,
            RunStatus::Cancelled | RunStatus::Unspecified => TaskRunStatus::Cancelled,
        };

        let state = self.coloured(status, &format::run_state(run.state(), run.status()));
        let took = format::took(run.created_at.as_ref(), run.ended_at.as_ref());
        let mut end = format!(
            "\n{}\n{} {state} in {took}",
            task_table(seen.tasks.values()),
            format::run_name(run)
        );
        let reason = printable(&format::reason(run.reason.as_ref()));

        if !reason.is_empty() {
            end += &format!(": {reason}");
        }

        self.line(&end)
    }

    fn leave(&mut self, key: &RunKey, why: OnInterrupt) -> Result<(), Failure> {
        if let Some(live) = self.live.take() {
            live.clear();
        }
        if why == OnInterrupt::Leave {
            let RunKey { namespace, pipeline, run } = key;
            self.out.note(&format!(
                "the run goes on; `gofer run follow -n {namespace} {pipeline} {run}` shows it, \
                 `gofer run cancel` with the same words stops it"
            ));
        }
        Ok(())
    }
}

/// The tasks of a run, in the order they were started.
pub(crate) fn task_table<'a>(tasks: impl Iterator<Item = &'a TaskRun>) -> String {
    let mut tasks: Vec<_> = tasks.collect();
    let begun = |task: &TaskRun| task.started_at.or(task.ended_at).map(|at| (at.seconds, at.nanos));
    tasks.sort_by_key(|task| (begun(task).unwrap_or((i64::MAX, 0)), task.task.clone()));

    output::table(
        &["TASK", "STATUS", "ATTEMPT", "TIME", "REASON"],
        tasks.into_iter().map(|task| {
            vec![
                task.task.clone(),
                format::task_state(task),
                // One that could not be started counts as a try, too.
                if task.started_at.is_some() || task.attempt > 1 {
                    task.attempt.to_string()
                } else {
                    String::new()
                },
                format::took(task.started_at.as_ref(), task.ended_at.as_ref()),
                format::reason(task.reason.as_ref()),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use gofer_proto::v1::Reason;
    use prost_types::Timestamp;

    use super::*;
    use crate::output::Format;

    fn ended(task: &str, status: TaskRunStatus, started: Option<i64>, ended: i64) -> TaskRun {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        TaskRun {
            task: task.into(),
            state: TaskRunState::Complete.into(),
            status: status.into(),
            attempt: 1,
            started_at: started.map(at),
            ended_at: Some(at(ended)),
            ..TaskRun::default()
        }
    }

    #[test]
    fn the_summary_is_in_the_order_of_events() {
        let tasks = [
            ended("a", TaskRunStatus::Skipped, None, 30),
            ended("b", TaskRunStatus::Failed, Some(20), 22),
            ended("c", TaskRunStatus::Successful, Some(10), 19),
        ];
        let text = task_table(tasks.iter());
        let names: Vec<_> = text.lines().skip(1).map(|line| &line[..1]).collect();
        assert_eq!(names, ["c", "b", "a"], "{text}");
    }

    #[test]
    fn a_line_says_state_time_and_reason() {
        let out = Out::new(Format::Table, false);
        let view = PeopleView::new(&out, true, false);
        let mut task = ended("build", TaskRunStatus::Failed, Some(20), 22);
        task.reason = Some(Reason { kind: "exit_code".into(), message: "exit code 1".into() });
        let line = view.task_line(&task);
        assert!(line.ends_with("  build  failed (2.0s): exit code 1"), "{line}");
    }

    #[test]
    fn waiting_tasks_get_no_line() {
        let mut task = TaskRun { state: TaskRunState::Pending.into(), ..TaskRun::default() };
        assert!(!worth_a_line(&task, false));
        task.not_before = Some(Timestamp::default());
        assert!(worth_a_line(&task, true));
        task = TaskRun { state: TaskRunState::Running.into(), ..TaskRun::default() };
        assert!(worth_a_line(&task, false) && !worth_a_line(&task, true));
    }
}
