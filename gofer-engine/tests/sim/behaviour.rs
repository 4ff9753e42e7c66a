//! How each attempt behaves at the scheduler, decided by the seed and its name alone: whoever
//! starts it, whenever.

use gofer_core::ExecutionId;
use gofer_core::pipeline::TaskSpec;
use gofer_core::scheduler::{ExecutionState, FailureKind, LogStream};

use crate::rng::Rng;

/// Longer than any simulation: such a process ends only when it is stopped.
const ENDLESS_MS: u64 = 24 * 3_600_000;

/// What becomes of an attempt that nobody stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Its process ends by itself.
    Exits { code: i32, oom: bool, signal: Option<i32> },
    /// It never runs.
    Fails(FailureKind),
    /// Its node is lost, before it runs or while it does.
    Lost { running: bool },
    /// The scheduler's `start` refuses it.
    Refused,
    /// Somebody else stops it.
    StoppedOutside,
}

#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    pub(crate) queue_ms: u64,
    pub(crate) run_ms: u64,
    pub(crate) end: End,
    /// From being asked to end until it does; `None` ignores it.
    pub(crate) term_ms: Option<u64>,
    /// From being killed until it is gone.
    pub(crate) kill_ms: u64,
    pub(crate) output: Vec<(LogStream, Vec<u8>)>,
    /// The scheduler learns of its exit late.
    pub(crate) reports: Option<Reports>,
}

/// An execution that tells its end itself, before the scheduler does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reports {
    /// From its exit until the scheduler knows, and has the last of its output.
    pub(crate) lag_ms: u64,
    /// From its exit until a server is told; `None`: nobody ever is.
    pub(crate) after_ms: Option<u64>,
}

impl Behaviour {
    pub(crate) fn of(seed: u64, id: &ExecutionId, spec: &TaskSpec) -> Self {
        let mut rng = Rng::of(seed, &id.to_string());
        let end = match rng.below(100) {
            0..68 => End::Exits { code: 0, oom: false, signal: None },
            68..82 => End::Exits { code: 3, oom: false, signal: None },
            82..84 => End::Exits { code: 137, oom: false, signal: Some(9) },
            84..86 => End::Exits { code: 137, oom: true, signal: Some(9) },
            86..89 => End::Fails(rng.pick(&[FailureKind::CommandNotFound, FailureKind::Setup])),
            89..91 => End::Refused,
            91..92 => End::StoppedOutside,
            _ => End::Lost { running: rng.chance(700) },
        };

        let long = rng.chance(50);
        let mut run_ms = if long {
            rng.below(20_000)
        } else {
            rng.pick(&[0, 1, 10, 100, 1_000]) + rng.below(300)
        };

        let mut queue_ms = if rng.chance(300) { rng.below(3_000) } else { rng.below(20) };
        if let Some(timeout) = spec.timeout.filter(|_| rng.chance(400)) {
            run_ms = u64::try_from(timeout.as_millis()).expect("short") + rng.between(1, 30_000);
        }

        // Of its own draws, so that older seeds stay what they were.
        if spec.timeout.is_some() && Rng::of(seed, &format!("endless {id}")).chance(500) {
            run_ms = ENDLESS_MS;
        }

        if let Some(timeout) = spec.start_timeout.filter(|_| rng.chance(400)) {
            queue_ms = u64::try_from(timeout.as_millis()).expect("short") + rng.between(1, 30_000);
        }

        let told = matches!(end, End::Exits { signal: None, .. });
        let reports = told.then(|| reports(seed, id)).flatten();
        Self {
            reports,
            queue_ms,
            run_ms,
            end,
            term_ms: (!rng.chance(200)).then(|| rng.pick(&[0, 5, 500, 8_000])),
            kill_ms: rng.pick(&[0, 10, 4_000]),
            output: output(&mut rng, id),
        }
    }

    /// The last state of an attempt that nobody stops.
    pub(crate) fn last_state(&self) -> ExecutionState {
        match &self.end {
            End::Exits { code, oom, signal } => {
                ExecutionState::Exited { code: *code, oom: *oom, signal: *signal }
            }
            End::Fails(kind) => ExecutionState::Failed {
                kind: *kind,
                message: "the simulation wanted it".to_owned(),
            },
            End::Lost { .. } => ExecutionState::Lost,
            End::StoppedOutside => ExecutionState::Stopped,
            End::Refused => ExecutionState::NotFound,
        }
    }

    /// Whether it ever runs.
    pub(crate) fn runs(&self) -> bool {
        !matches!(self.end, End::Fails(_) | End::Lost { running: false } | End::Refused)
    }
}

/// Whether executions report is one for all of a seed.
fn reports(seed: u64, id: &ExecutionId) -> Option<Reports> {
    let mut rng = Rng::of(seed, &format!("report {id}"));
    Rng::of(seed, "reports").chance(250).then(|| Reports {
        lag_ms: rng.between(100, 2_500),
        after_ms: rng.chance(900).then(|| rng.pick(&[0, 0, 10, 1_000]) + rng.below(20)),
    })
}

fn output(rng: &mut Rng, id: &ExecutionId) -> Vec<(LogStream, Vec<u8>)> {
    let lines = if rng.chance(400) { 0 } else { rng.between(1, 4) };
    let line = |rng: &mut Rng, at: u64| {
        let stream = rng.pick(&[LogStream::Stdout, LogStream::Stderr]);
        (stream, format!("{id} line {at}\n").into_bytes())
    };
    (0..lines).map(|at| line(rng, at)).collect()
}
