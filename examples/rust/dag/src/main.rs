//! Every kind of edge, and a failure that is handled.
//!
//! ```text
//! fetch ─┬─> count-words ─────────┐
//!        ├─> count-lines ─────────┤
//!        └─> risky ─┬─ failure ─> rescue ────┼─ in any case ─> summary
//!                   └─ success ─> celebrate ─┘
//! ```

use std::process::ExitCode;

use gofer_sdk::{Pipeline, Task};

fn main() -> ExitCode {
    // Nothing before it: starts with the run.
    let fetch = Task::new("fetch").script("echo 'fetching the text'");

    // Both wait for the same parent, and run at the same time.
    let count_words = Task::new("count-words").script("echo 'one two three' | wc -w").depends_on(&fetch);
    let count_lines = Task::new("count-lines").script("printf 'one\\ntwo\\n' | wc -l").depends_on(&fetch);

    // This one always fails …
    let risky = Task::new("risky").script("echo 'this goes wrong' >&2\nexit 1").depends_on(&fetch);

    // … which is what this one is there for. It succeeds, so the failure counts as handled and the
    // run as successful.
    let rescue = Task::new("rescue").script("echo 'cleaning up after risky'").depends_on_failure(&risky);

    // Its edge does not hold, so it is skipped.
    let celebrate = Task::new("celebrate").script("echo 'nobody will read this'").depends_on(&risky);

    // Runs when all of these are over: successful, failed or skipped.
    let summary = Task::new("summary").script("echo 'all is over'").depends_on_any([
        &count_words,
        &count_lines,
        &rescue,
        &celebrate,
    ]);

    Pipeline::new("dag")
        .description("Parallel tasks, success, failure and any edges, and a handled failure.")
        .tasks([fetch, count_words, count_lines, risky, rescue, celebrate, summary])
        .run()
}
