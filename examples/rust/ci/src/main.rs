//! Checks, tests, builds and packages a real Rust project: `examples/projects/wordcount`.
//!
//! ```text
//! fmt ─┬─> lint ─────────────┐
//!      ├─> test-unit ────────┤
//!      ├─> test-integration ─┼─> package
//!      └─> build ────────────┘
//! all of these ── in any case ──> report ── failure ──> notify
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use gofer_sdk::{Pipeline, Task};

/// The project this pipeline is for, as seen from the pipeline's own folder.
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../projects/wordcount");

/// Lists the steps that have left a note, and fails when one has not: it failed, or was skipped
/// because another did.
const REPORT: &str = r#"
verdict=0
for step in $STEPS; do
    if gofer object get "results/$step" - > /dev/null; then
        echo "passed      $step"
    else
        echo "NOT PASSED  $step"
        verdict=1
    fi
done
exit $verdict
"#;

fn main() -> ExitCode {
    let project = match Path::new(PROJECT).canonicalize() {
        Ok(project) => project,
        Err(error) => {
            eprintln!("cannot find the project at `{PROJECT}`: {error}");
            return ExitCode::from(2);
        }
    };

    let step = |id, script| step(id, script, &project);

    // Formatting is checked first: it takes no time, and saves the others when it is wrong.
    let fmt = step("fmt", "cargo fmt --check");
    // Then four steps at the same time. Cargo shares what they compile, and lets those wait that
    // need the same.
    let lint = step("lint", "cargo clippy --locked --all-targets -- -D warnings").depends_on(&fmt);
    let unit = step("test-unit", "cargo test --locked --lib --bins").depends_on(&fmt);
    let integration = step("test-integration", "cargo test --locked --test '*'").depends_on(&fmt);
    let build = step("build", "cargo build --locked --release").depends_on(&fmt);

    // Only what passed everything is packaged. The object stays with the run:
    // `gofer object get wordcount.tar.gz FILE --pipeline ci --run N`.
    let package = step(
        "package",
        "tar -czf target/wordcount.tar.gz -C target/release wordcount\n\
         gofer object put wordcount.tar.gz - < target/wordcount.tar.gz",
    )
    .depends_on([&lint, &unit, &integration, &build]);

    let steps = [fmt, lint, unit, integration, build, package];
    let ids: Vec<&str> = steps.iter().map(Task::id).collect();

    let report = Task::new("report")
        .description("Says what passed; fails when something did not.")
        .variable("STEPS", ids.join(" "))
        .script(REPORT)
        .depends_on_any(&steps);

    // Here a mail or a chat message would be sent, with its token from `secret("…")`.
    let notify = Task::new("notify")
        .script("echo \"run $GOFER_RUN of $GOFER_PIPELINE has failed; see its report\"")
        .depends_on_failure(&report);

    Pipeline::new("ci")
        .description("Checks, tests, builds and packages wordcount.")
        // All runs work in the same folder: one after the other.
        .parallelism(1)
        // Tasks start with a clean environment. These are the tools that compiled this pipeline, …
        .variable("TOOLCHAIN", toolchain().display())
        // … and this is where `target/release` is, under any Cargo configuration of the user.
        .variable("CARGO_TARGET_DIR", project.join("target").display())
        .tasks(steps)
        .tasks([report, notify])
        .run()
}

/// A script that runs in the project and, having passed, leaves a note for the report.
fn step(id: &str, script: &str, project: &Path) -> Task {
    Task::new(id)
        .working_dir(project)
        .script(format!(
            r#"PATH="$TOOLCHAIN:$PATH"
{script}
echo passed | gofer object put "results/$GOFER_TASK" -"#
        ))
        .timeout(Duration::from_secs(15 * 60))
}

/// The folder of `cargo`, `rustc`, `rustfmt` and `clippy`.
fn toolchain() -> PathBuf {
    Path::new(env!("CARGO")).parent().map(Path::to_path_buf).unwrap_or_default()
}
