//! The server is killed every second or so, under a load.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::dice::{Dice, crashes};
use super::load::Load;
use super::whole::Logs;
use super::{shapes, whole};
use crate::serving::Serving;

/// Runs at the same time: more than the machine's cores can do at once, and few enough to see each
/// through many crashes.
const CLIENTS: u64 = 24;
/// The longest that a server lives; half of it is the usual.
const LIFE: Duration = Duration::from_secs(2);
/// Kills of an ordinary test.
const CRASHES: u64 = 12;

#[test]
fn a_load_survives_that_the_server_is_killed_every_second() {
    let mut dice = Dice::new("a_load_survives");
    let dir = tempfile::tempdir().expect("a folder");
    let marks = dir.path().join("marks");
    let mut server = Serving::start();

    for shape in shapes::ALL {
        server.up(&shape.pipeline(&marks));
    }

    let (since, crashes) = (Instant::now(), crashes(CRASHES));
    let load = Load::start(&server, &dice, CLIENTS);
    for _ in 0..crashes {
        std::thread::sleep(dice.moment(LIFE));
        server.kill_and_restart();
    }

    let (done, seen) = load.finish();
    let took = since.elapsed().as_secs_f64();
    whole::check(&server, &marks, &done, Logs::Whole);
    let figures = format!(
        "{crashes} kills, {} runs, {took:.1} s of load, longest call {:.1} s, refusals: {:?}\n",
        done.len(),
        seen.longest().as_secs_f64(),
        seen.refusals(),
    );
    let _ = std::io::stderr().write_all(figures.as_bytes());
    assert!(done.len() as u64 > crashes, "that was no load: {figures}");
}
