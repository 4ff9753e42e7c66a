//! Tasks that hand results to each other.

use std::process::ExitCode;

use gofer_sdk::{Pipeline, Task, run_object};

fn main() -> ExitCode {
    // `gofer` is on every task's PATH and knows which run it is in. `-` is standard input.
    let write =
        Task::new("write").script(r#"printf 'hello from run %s' "$GOFER_RUN" | gofer object put greeting.txt -"#);

    // Small texts: as a variable. Gofer reads the object when this task starts.
    let as_variable = Task::new("read-variable")
        .variable("GREETING", run_object("greeting.txt"))
        .script(
            r#"
            echo "the variable says: $GREETING"
            test "$GREETING" = "hello from run $GOFER_RUN"
        "#,
        )
        .depends_on(&write);

    // Anything, of any size: as a stream. `-` is standard output.
    let as_stream = Task::new("read-stream")
        .script(
            r#"
            gofer object get greeting.txt - > copy.txt
            test "$(cat copy.txt)" = "hello from run $GOFER_RUN"
        "#,
        )
        .depends_on(&write);

    Pipeline::new("objects")
        .description("One task writes an object of the run, two others read it.")
        .tasks([write, as_variable, as_stream])
        .run()
}
