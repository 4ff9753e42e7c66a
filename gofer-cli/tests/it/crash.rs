//! The server is killed at random moments of one run, again and again; nothing may be lost, and
//! nothing may run twice.
//!
//! `GOFER_CRASHES` says how often (50), `GOFER_CRASH_SEED` repeats the moments of an earlier time.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::campaign::dice::{Dice, crashes};
use crate::campaign::load::Done;
use crate::campaign::whole::Logs;
use crate::campaign::{shapes, whole};
use crate::serving::{Serving, wait};

/// The longest that a server lives: a bit more than a run takes.
const LONGEST_LIFE: Duration = Duration::from_millis(400);

#[test]
fn killing_the_server_at_random_moments_loses_nothing_and_runs_nothing_twice() {
    let crashes = crashes(50);
    let mut dice = Dice::new("killing_the_server");
    let dir = tempfile::tempdir().expect("a folder");
    let marks = dir.path().join("marks");
    let mut server = Serving::start();
    server.up(&shapes::CI.pipeline(&marks));

    for key in 1..=crashes {
        // The kill may come before the run is committed, after it and before the client knows, or
        // while it runs.
        let key = format!("run-{key}");
        let start = ["run", "start", "ci", "--idempotency-key", &key];
        let mut client = server
            .command(&start)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");

        std::thread::sleep(dice.moment(LONGEST_LIFE));
        server.kill_and_restart();
        wait(&mut client);

        // Whatever became of the call: repeating it makes sure that there is one run, and only one.
        server.run(&start).expect(0);
    }

    let complete = |value: &Value| value["run"]["state"] == "RUN_STATE_COMPLETE";
    for run in 1..=crashes {
        server.eventually(&["run", "get", "ci", &run.to_string()], complete);
    }

    let done: Vec<_> = (1..=crashes).map(|run| Done { shape: shapes::CI_AT, run }).collect();
    whole::check(&server, &marks, &done, Logs::Whole);
}
