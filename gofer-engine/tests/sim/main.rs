//! The whole engine in virtual time, from one number: design.md section 6, "Simulation". See
//! docs/src/simulation.md.
//!
//! `GOFER_SIM_SEEDS=N` runs N seeds, from `GOFER_SIM_FIRST` on; `GOFER_SIM_SEED=S` replays one and
//! prints what happened.

mod behaviour;
mod clients;
mod cluster;
mod hints;
mod journal;
mod link;
mod model;
mod oracle;
mod plan;
mod reports;
mod rng;
mod rules;
mod scheduler;
mod server;
mod sim;
mod stores;
mod world;

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::simulate;

/// Enough to find most mistakes in a few seconds; CI runs more.
const SEEDS: u64 = 300;
/// Failing seeds that are printed.
const SHOWN: usize = 10;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("`{name}` is `{text}`, and should be a number")))
}

#[test]
fn every_seed_ends_well() {
    if let Some(seed) = number("GOFER_SIM_SEED") {
        return replay(seed);
    }

    let first = number("GOFER_SIM_FIRST").unwrap_or(0);
    let count = number("GOFER_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    if let Some(violation) = simulate(seed, false).violation {
                        world::lock(&failures).push((seed, violation));
                    }
                }
            });
        }
    });

    let mut failures = failures.into_inner().expect("every thread has ended well");
    failures.sort();
    let shown = failures.iter().take(SHOWN).map(|(seed, violation)| {
        format!(
            "seed {seed}: {violation}\n  GOFER_SIM_SEED={seed} cargo test -p gofer-engine --test \
             sim -- --nocapture\n"
        )
    });

    let shown: String = shown.collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed\n{shown}", failures.len());
}

fn replay(seed: u64) {
    let outcome = simulate(seed, true);
    let mut out = std::io::stdout().lock();
    for line in &outcome.trace {
        writeln!(out, "{line}").expect("stdout takes it");
    }
    if let Some(violation) = outcome.violation {
        panic!("seed {seed}: {violation}");
    }
}

/// A failing seed is worth nothing if it does not fail again.
#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..20 {
        let (once, again) = (simulate(seed, true).trace, simulate(seed, true).trace);
        let differs = once.iter().zip(&again).position(|(one, other)| one != other);
        assert_eq!(
            differs,
            None,
            "seed {seed}: {:?} and {:?}",
            once[differs.unwrap_or(0)],
            again[differs.unwrap_or(0)]
        );
        assert_eq!(once.len(), again.len(), "seed {seed}");
    }
}
