//! How a run is shown while it is followed.

use gofer_proto::v1::{Run, TaskRun};

use super::json::JsonView;
use super::logs::LogNews;
use super::people::PeopleView;
use super::{OnInterrupt, RunKey, Seen};
use crate::errors::Failure;
use crate::output::Out;

/// A way to show a run. Errors mean that stdout cannot be written; a reader that has gone away is
/// none.
pub(super) trait View {
    /// The run has changed.
    fn run(&mut self, run: &Run) -> Result<(), Failure>;
    /// A task run has changed.
    fn task(&mut self, task: &TaskRun) -> Result<(), Failure>;
    /// There is more of a log.
    fn log(&mut self, news: LogNews) -> Result<(), Failure>;
    /// Something a person should know.
    fn note(&mut self, text: &str) -> Result<(), Failure>;
    /// Whether [`View::tick`] does anything.
    fn is_live(&self) -> bool;
    /// Time has passed.
    fn tick(&mut self, seen: &Seen);
    /// The run is complete.
    fn finish(&mut self, seen: &Seen) -> Result<(), Failure>;
    /// The following ends before the run does.
    fn leave(&mut self, key: &RunKey, why: OnInterrupt) -> Result<(), Failure>;
}

/// JSON if it is asked for, otherwise lines for people, and on a terminal a live view below them.
pub(super) fn choose(out: &Out, states: bool, timestamps: bool) -> Box<dyn View + '_> {
    if out.is_json() {
        Box::new(JsonView::new(out, states))
    } else {
        Box::new(PeopleView::new(out, states && !out.is_quiet(), timestamps))
    }
}
