//! The view for programs: one JSON object per line, `{"run": …}`, `{"taskRun": …}` or `{"log": …}`.

use gofer_proto::json::to_json;
use gofer_proto::v1::{Run, RunUpdate, TaskRun, run_update::Subject};

use super::logs::{LogNews, News};
use super::run_key::RunKey;
use super::seen::{OnInterrupt, Seen};
use super::view::View;
use crate::errors::Failure;
use crate::output::Out;

pub(super) struct JsonView<'a> {
    out: &'a Out,
    states: bool,
}

impl<'a> JsonView<'a> {
    pub(super) fn new(out: &'a Out, states: bool) -> Self {
        Self { out, states }
    }

    fn update(&self, subject: Subject) -> Result<(), Failure> {
        if self.states {
            self.out.json_line(&to_json(&RunUpdate { subject: Some(subject) }))
        } else {
            Ok(())
        }
    }
}

impl View for JsonView<'_> {
    fn run(&mut self, run: &Run) -> Result<(), Failure> {
        self.update(Subject::Run(run.clone()))
    }

    fn task(&mut self, task: &TaskRun) -> Result<(), Failure> {
        self.update(Subject::TaskRun(task.clone()))
    }

    fn log(&mut self, news: LogNews) -> Result<(), Failure> {
        let LogNews { task, attempt, what } = news;
        match what {
            News::Chunk(chunk) => {
                let log =
                    serde_json::json!({"task": task, "attempt": attempt, "chunk": to_json(&chunk)});
                self.out.json_line(&serde_json::json!({ "log": log }))
            }
            // The offset of the next chunk says it.
            News::LeftOut(_) | News::End(None) => Ok(()),
            News::End(Some(failure)) => self.note(&failure.render()),
        }
    }

    fn note(&mut self, text: &str) -> Result<(), Failure> {
        self.out.note(text);
        Ok(())
    }

    fn is_live(&self) -> bool {
        false
    }

    fn tick(&mut self, _seen: &Seen) {}

    fn finish(&mut self, _seen: &Seen) -> Result<(), Failure> {
        Ok(())
    }

    fn leave(&mut self, _key: &RunKey, _why: OnInterrupt) -> Result<(), Failure> {
        Ok(())
    }
}
