//! Warnings that repeat: of each cause the first is told at once, and then how many there were,
//! once a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the same cause is reported.
const WARNING_PERIOD: Duration = Duration::from_secs(60);
/// Causes that are told apart. Beyond them, each error is reported.
const CAUSES_MAX: usize = 64;

/// What was told of each cause.
#[derive(Debug, Default)]
pub(crate) struct RepeatedWarnings(Mutex<HashMap<String, Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    /// How many there were since.
    since: u64,
}

impl RepeatedWarnings {
    /// Counts an error. When it is to be told: how many of its cause there were since the last that
    /// was told, itself included.
    pub(crate) fn count(&self, error: &str) -> Option<u64> {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CAUSES_MAX {
            all.retain(|_, told| now - told.at < WARNING_PERIOD);
        }

        let is_full = all.len() >= CAUSES_MAX;
        let cause = cause(error);
        if let Some(told) = all.get_mut(&cause) {
            told.since += 1;
            if now - told.at < WARNING_PERIOD {
                return None;
            }
            let times = told.since;
            *told = Told { at: now, since: 0 };
            return Some(times);
        }

        if !is_full {
            all.insert(cause, Told { at: now, since: 0 });
        }

        Some(1)
    }
}

/// The error without its values, which messages have between backticks, and without numbers.
fn cause(error: &str) -> String {
    let outside = error.split('`').step_by(2).collect::<Vec<_>>().join("`");
    outside.chars().filter(|char| !char.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_a_minute() {
        let warnings = RepeatedWarnings::default();
        let outage = |log: u32| {
            format!("the log of `ns/p/{log}/a/1` cannot be stored: connection {log} refused")
        };
        assert_eq!(warnings.count(&outage(1)), Some(1), "the first at once");
        for log in 2..100 {
            assert_eq!(warnings.count(&outage(log)), None);
        }
        assert_eq!(warnings.count("the disk is full"), Some(1), "another cause");
        tokio::time::advance(WARNING_PERIOD).await;
        assert_eq!(warnings.count(&outage(7)), Some(99));
        assert_eq!(warnings.count(&outage(8)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn causes_are_bounded() {
        let warnings = RepeatedWarnings::default();
        let name = |index: usize| "x".repeat(index + 1);
        for index in 0..CAUSES_MAX {
            assert_eq!(warnings.count(&name(index)), Some(1));
        }
        assert_eq!(warnings.count(&name(CAUSES_MAX)), Some(1), "told");
        assert_eq!(warnings.count(&name(CAUSES_MAX)), Some(1), "and not remembered");
        tokio::time::advance(WARNING_PERIOD).await;
        assert_eq!(
            (warnings.count(&name(CAUSES_MAX)), warnings.count(&name(CAUSES_MAX))),
            (Some(1), None),
            "there is room again"
        );
        assert!(warnings.0.lock().unwrap().len() <= CAUSES_MAX);
    }
}
