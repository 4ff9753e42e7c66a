//! The work of a pipeline program: it prints the pipeline, for Gofer or for a person.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use gofer_core::pipeline::{Condition, TaskSpec};

use crate::build::{Built, PipelineErrors};
use crate::pipeline::Pipeline;

/// The pipeline breaks rules; the same code `gofer` has for wrong use.
const EXIT_INVALID: u8 = 2;
/// Standard output could not be written.
const EXIT_OUTPUT: u8 = 1;

impl Pipeline {
    /// The whole `main` of a pipeline program. Prints the pipeline to standard output. A pipe or a
    /// file gets protobuf (`gofer.v1.PipelineSpec`), which Gofer reads. A terminal gets a summary.
    /// A pipeline that breaks rules prints all of them to standard error and exits with code 2.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use gofer_sdk::{Pipeline, Task};
    ///
    /// fn main() -> ExitCode {
    ///     Pipeline::new("hello").task(Task::new("greet").script("echo hello")).run()
    /// }
    /// ```
    #[must_use = "return the exit code from `main`, or a broken pipeline goes unnoticed"]
    pub fn run(self) -> ExitCode {
        let terminal = io::stdout().is_terminal();
        print(self.build(), terminal, &mut io::stdout(), &mut io::stderr()).into()
    }
}

/// The exit code. When standard error cannot be written either, the code alone has to tell.
fn print(
    built: Result<Built, PipelineErrors>,
    terminal: bool,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> u8 {
    let built = match built {
        Ok(built) => built,
        Err(errors) => {
            let _ = writeln!(stderr, "{errors}");
            return EXIT_INVALID;
        }
    };

    let written = if terminal {
        writeln!(stdout, "{built}\nit is valid; run it with `gofer local .`")
    } else {
        stdout.write_all(&built.encode())
    };

    match written.and_then(|()| stdout.flush()) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(stderr, "cannot write the pipeline to standard output: {error}");
            EXIT_OUTPUT
        }
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.spec();
        let count = spec.tasks.len();
        let tasks = if count == 1 { "task" } else { "tasks" };
        writeln!(f, "pipeline `{}`: {count} {tasks}", spec.name)?;
        if !spec.description.is_empty() {
            writeln!(f, "{}", spec.description)?;
        }

        writeln!(f)?;
        let width = spec.tasks.iter().map(|task| task.id.as_str().len()).max().unwrap_or(0);
        for task in &spec.tasks {
            let id = task.id.as_str();
            match edges(task) {
                edges if edges.is_empty() => writeln!(f, "  {id}")?,
                edges => writeln!(f, "  {id:width$}  after {edges}")?,
            }
        }

        Ok(())
    }
}

/// The parents, such as `build, lint; docs (in any case)`.
fn edges(task: &TaskSpec) -> String {
    let conditions = [
        (Condition::Success, ""),
        (Condition::Failure, " (failed)"),
        (Condition::Any, " (in any case)"),
    ];
    let mut groups = Vec::new();
    for (condition, words) in conditions {
        let edges = task.depends_on.iter().filter(|edge| edge.condition == condition);
        let parents: Vec<&str> = edges.map(|edge| edge.task.as_str()).collect();
        if !parents.is_empty() {
            groups.push(format!("{}{words}", parents.join(", ")));
        }
    }
    groups.join("; ")
}

#[cfg(test)]
mod tests {
    use gofer_proto::v1;
    use prost::Message;

    use super::*;
    use crate::Task;

    fn printed(pipeline: Pipeline, terminal: bool) -> (u8, Vec<u8>, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = print(pipeline.build(), terminal, &mut stdout, &mut stderr);
        (code, stdout, String::from_utf8(stderr).unwrap())
    }

    fn small() -> Pipeline {
        let build = Task::new("build").script("make");
        let test = Task::new("test").script("make test").depends_on(&build);
        let docs = Task::new("docs").script("make docs");
        let report = Task::new("report")
            .script("./report")
            .depends_on_any([&docs, &test])
            .depends_on(&build);
        let page = Task::new("page-somebody").script("./page").depends_on_failure(&test);
        Pipeline::new("ci").description("builds and tests").tasks([build, test, docs, report, page])
    }

    #[test]
    fn a_pipe_gets_protobuf_and_nothing_else() {
        let (code, stdout, stderr) = printed(small(), false);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(
            v1::PipelineSpec::decode(&*stdout).unwrap(),
            small().build().unwrap().to_proto()
        );
    }

    #[test]
    fn a_terminal_gets_text() {
        let (code, stdout, _) = printed(small(), true);
        let expected = "\
pipeline `ci`: 5 tasks
builds and tests

  build
  test           after build
  docs
  report         after build; docs, test (in any case)
  page-somebody  after test (failed)

it is valid; run it with `gofer local .`
";
        assert_eq!((code, String::from_utf8(stdout).unwrap().as_str()), (0, expected));
    }

    #[test]
    fn a_broken_pipeline_prints_no_bytes_and_exits_2() {
        let (code, stdout, stderr) = printed(Pipeline::new("ci"), false);
        assert_eq!((code, stdout.len()), (2, 0));
        assert_eq!(
            stderr,
            "pipeline `ci` has 1 error:\n  tasks: a pipeline has at least one task\n"
        );
    }

    #[test]
    fn a_closed_output_is_an_error_and_no_panic() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut stderr = Vec::new();
        assert_eq!(print(small().build(), false, &mut Closed, &mut stderr), 1);
        assert!(String::from_utf8(stderr).unwrap().starts_with("cannot write the pipeline"));
    }
}
