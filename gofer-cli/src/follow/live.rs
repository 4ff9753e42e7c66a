//! The part of the view that changes in place, on a terminal: the tasks that run now, and how far
//! the run is.

use gofer_proto::v1::{TaskRun, TaskRunState, TaskRunStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::screen::Screen;
use super::seen::Seen;
use crate::format;
use crate::output::printable;

/// More tasks than fit are counted instead of shown.
const MAX_ROWS: usize = 12;

/// As often as a person sees.
const DRAWN_PER_SECOND: u8 = 20;

/// Rows at the bottom of the terminal.
pub(super) struct Live {
    bars: MultiProgress,
    rows: Vec<ProgressBar>,
}

impl Live {
    pub(super) fn new() -> Self {
        let target =
            ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), DRAWN_PER_SECOND);
        Self { bars: MultiProgress::with_draw_target(target), rows: Vec::new() }
    }

    /// Takes the rows away while something else is written.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bars.suspend(write)
    }

    /// Takes the rows away for good.
    pub(super) fn clear(self) {
        // Only a terminal that has gone away refuses.
        let _ = self.bars.clear();
    }

    /// Draws the present state.
    pub(super) fn draw(&mut self, seen: &Seen) {
        let texts = rows(seen);
        while self.rows.len() > texts.len() {
            if let Some(row) = self.rows.pop() {
                self.bars.remove(&row);
            }
        }

        while self.rows.len() < texts.len() {
            let row = self.bars.add(ProgressBar::new_spinner());
            row.set_style(
                ProgressStyle::with_template("{spinner} {wide_msg}")
                    .expect("the template is right"),
            );
            self.rows.push(row);
        }

        for (row, text) in self.rows.iter().zip(texts) {
            row.set_message(text);
            row.tick();
        }
    }
}

/// The text of every row.
fn rows(seen: &Seen) -> Vec<String> {
    let active: Vec<_> = seen.tasks.values().filter(|task| is_active(task)).collect();
    let width = active.iter().map(|task| task.task.len()).max().unwrap_or(0);
    let row = |task: &&TaskRun| {
        let since = format::took(task.started_at.as_ref(), None);
        format!("{:width$}  {}  {since}", printable(&task.task), format::task_state(task))
            .trim_end()
            .to_owned()
    };
    let mut texts: Vec<_> = active.iter().take(MAX_ROWS).map(row).collect();
    if active.len() > MAX_ROWS {
        texts.push(format!("and {} more", active.len() - MAX_ROWS));
    }
    texts.push(total(seen, active.len()));
    texts
}

/// `ci #7: 3 of 9 done, 1 failed, 2 active, 12.0s`.
fn total(seen: &Seen, active: usize) -> String {
    let done = seen.tasks.values().filter(|task| task.state() == TaskRunState::Complete).count();
    let bad =
        |task: &&TaskRun| matches!(task.status(), TaskRunStatus::Failed | TaskRunStatus::TimedOut);
    let failed = match seen.tasks.values().filter(bad).count() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let since = format::took(seen.run.created_at.as_ref(), seen.run.ended_at.as_ref());
    format!(
        "{}: {done} of {} done{failed}, {active} active, {since}",
        format::run_name(&seen.run),
        seen.tasks.len()
    )
}

fn is_active(task: &TaskRun) -> bool {
    matches!(task.state(), TaskRunState::Starting | TaskRunState::Running)
        || task.not_before.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(count: usize) -> Seen {
        let task = |n| TaskRun {
            task: format!("t{n}"),
            state: TaskRunState::Running.into(),
            ..TaskRun::default()
        };
        Seen { tasks: (0..count).map(|n| (format!("t{n}"), task(n))).collect(), ..Seen::default() }
    }

    #[test]
    fn a_wide_run_does_not_fill_the_screen() {
        let texts = rows(&running(100));
        assert_eq!(texts.len(), MAX_ROWS + 2);
        assert_eq!(texts[MAX_ROWS], "and 88 more");
        assert!(texts[MAX_ROWS + 1].contains("0 of 100 done, 100 active"), "{texts:?}");
    }
}
