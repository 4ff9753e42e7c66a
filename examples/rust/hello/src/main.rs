//! The smallest pipeline: one task.

use std::process::ExitCode;

use gofer_sdk::{Pipeline, Task};

fn main() -> ExitCode {
    Pipeline::new("hello")
        .description("Says hello.")
        // Every task gets this variable, and a run may give it another value.
        .variable("NAME", "world")
        .task(Task::new("greet").script("echo \"hello, $NAME\""))
        .run()
}
