//! The disk under the server: full for a while, read-only for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tonic::Code;

use super::dice::Dice;
use super::load::{Load, Seen};
use super::volume::Volume;
use super::whole::Logs;
use super::{shapes, whole};
use crate::harness::text;
use crate::pipelines::script;
use crate::serving::{SOON, Serving};

/// Enough to meet every part of the server at work.
const CLIENTS: u64 = 8;
/// How long things go well before and between, and how long an outage lasts: several retries.
const WELL: Duration = Duration::from_secs(2);
const OUTAGE: Duration = Duration::from_secs(4);

/// Registers big pipelines until one is refused, in words, and with this exit code of the client.
pub(crate) fn until_refused(server: &Serving, code: i32) {
    let since = Instant::now();
    for version in 0_u64.. {
        // Big, because a database has some room inside. Different, because the same again is no new
        // version.
        let value = version.to_string().repeat(60_000 / version.to_string().len());
        let variables: BTreeMap<_, _> =
            (0..8).map(|name| (format!("V{name}"), value.clone())).collect();
        let spec = json!({ "name": "ballast", "variables": variables, "tasks": [script("a", "true", &[])] });
        let ended = server.run_with_stdin(&["up", "-"], spec.to_string().as_bytes());
        if ended.code != 0 {
            ended.expect(code).says("error: ").says("the database");
            return;
        }

        assert!(
            since.elapsed() < SOON,
            "nothing was refused within {SOON:?}; log:\n{}",
            server.log()
        );
    }
}

/// Fails unless whatever was refused was refused for these reasons.
pub(crate) fn refused_for(seen: &Seen, reasons: &[(&str, Code)]) {
    for (reason, (_, code, message)) in seen.refusals() {
        assert!(reasons.contains(&(reason.as_str(), code)), "{code:?} {reason}: {message}");
        assert!(!message.is_empty(), "{reason} without words");
    }
}

#[test]
fn runs_wait_while_the_disk_is_full() {
    let Some(volume) = Volume::memory("runs_wait_while_the_disk_is_full", "40m") else { return };
    let dice = Dice::new("runs_wait_while_the_disk_is_full");
    let dir = tempfile::tempdir().expect("a folder");
    let marks = dir.path().join("marks");
    let server = Serving::start_on(tempfile::tempdir().expect("a folder"), volume.path());

    for shape in shapes::ALL {
        server.up(&shape.pipeline(&marks));
    }

    let load = Load::start(&server, &dice, CLIENTS);
    for _ in 0..2 {
        std::thread::sleep(WELL);
        volume.fill();
        until_refused(&server, 3);
        std::thread::sleep(OUTAGE);
        volume.free();
    }

    std::thread::sleep(WELL);
    let (done, seen) = load.finish();
    refused_for(
        &seen,
        &[("DATABASE_FULL", Code::Unavailable), ("BACKEND_FULL", Code::Unavailable)],
    );
    whole::check(&server, &marks, &done, Logs::MayBreakOff);
}

/// Linux makes no file system read-only that has files open for writing, except after an error of
/// its disk; then it has to be mounted again, and the server started.
#[test]
fn runs_wait_while_sqlite_is_read_only() {
    let Some(volume) = Volume::disk("runs_wait_while_sqlite_is_read_only") else { return };
    let dice = Dice::new("runs_wait_while_sqlite_is_read_only");
    let dir = tempfile::tempdir().expect("a folder");
    let marks = dir.path().join("marks");
    let database = text(&volume.path().join("gofer.db")).to_owned();
    let config = format!("[database]\nurl = \"sqlite://{database}\"\n");
    let mut server = Serving::start_configured(tempfile::tempdir().expect("a folder"), &config);

    for shape in shapes::ALL {
        server.up(&shape.pipeline(&marks));
    }

    let load = Load::start(&server, &dice, CLIENTS);
    std::thread::sleep(WELL);

    // In between two commits: breaking ext4 this way lets an fsync that is under way succeed for
    // nothing (a bare loop of write and fsync loses its last record once in three times), which a
    // disk that fails does not do.
    server.while_stopped(|| volume.break_down());
    until_refused(&server, 3);
    std::thread::sleep(OUTAGE);
    server.kill();
    volume.repair();
    server.restart();
    std::thread::sleep(WELL);

    let (done, seen) = load.finish();
    refused_for(
        &seen,
        &[("DATABASE_UNAVAILABLE", Code::Unavailable), ("BACKEND_UNAVAILABLE", Code::Unavailable)],
    );
    whole::check(&server, &marks, &done, Logs::Whole);
}
