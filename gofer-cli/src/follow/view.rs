//! How a run is shown while it is followed.

use gofer_proto::v1::{Run, TaskRun};

use super::logs::LogNews;
use super::run_key::RunKey;
use super::seen::{OnInterrupt, Seen};
use crate::errors::Failure;

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
