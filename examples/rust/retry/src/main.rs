//! Tasks that fail at first: retries, backoff and timeouts.

use std::process::ExitCode;
use std::time::Duration;

use gofer_sdk::{Pipeline, RetryOn, Task};

/// Fails twice, as something does that is not up yet. Gofer tells every attempt its number.
const FLAKY: &str = r#"
if [ "$GOFER_ATTEMPT" -lt 3 ]; then
    echo "attempt $GOFER_ATTEMPT: not up yet" >&2
    exit 1
fi
echo "attempt $GOFER_ATTEMPT: it answers"
"#;

/// Hangs the first time.
const HANGING: &str = r#"
if [ "$GOFER_ATTEMPT" -eq 1 ]; then
    echo "attempt 1: waiting for something that never comes"
    sleep 60
fi
echo "attempt $GOFER_ATTEMPT: done"
"#;

fn main() -> ExitCode {
    let flaky = Task::new("flaky")
        .script(FLAKY)
        .retries(3) // at most four attempts
        .backoff(Duration::from_millis(200)) // waits 200 ms, then 400 ms, then 500 ms
        .max_backoff(Duration::from_millis(500));

    let hanging = Task::new("hanging")
        .script(HANGING)
        .timeout(Duration::from_secs(2)) // of each attempt; its whole process tree is ended
        .retries(2)
        .retry_on([RetryOn::TimedOut]) // a command that fails by itself is not tried again
        .backoff(Duration::from_millis(100));

    let after = Task::new("after").script("echo 'both have made it'").depends_on([&flaky, &hanging]);

    Pipeline::new("retry").description("Retries with backoff, and a timeout.").tasks([flaky, hanging, after]).run()
}
