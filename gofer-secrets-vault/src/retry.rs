//! How long to wait before the next attempt.

use std::time::Duration;

/// The first pause is about half of this, and each further one about twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer, except one that the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A server that wants to be left alone for longer is left alone, and the caller the error.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(10);

/// Exponential backoff with jitter, bounded in number and length.
#[derive(Debug)]
pub(crate) struct Backoff {
    left: u32,
    next: Duration,
}

impl Backoff {
    /// For a call that may be tried so often in all.
    pub(crate) fn new(attempts: u32) -> Self {
        Self { left: attempts.saturating_sub(1), next: FIRST_PAUSE }
    }

    /// The pause before the next attempt, at least as long as the server asked for; `None` when
    /// that was the last one.
    pub(crate) fn pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.left == 0 || asked.is_some_and(|asked| asked > LONGEST_ASKED_PAUSE) {
            return None;
        }
        self.left -= 1;
        // Several servers that lost Vault at the same moment must not come back at the same moment.
        let pause = jittered(self.next, 0.5, 1.0);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        Some(asked.map_or(pause, |asked| asked + pause))
    }
}

/// A random part of a time, between two fractions of it.
pub(crate) fn jittered(time: Duration, least: f64, most: f64) -> Duration {
    time.mul_f64(least + (most - least) * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut backoff = Backoff::new(9);
        let pauses: Vec<Duration> = std::iter::from_fn(|| backoff.pause(None)).collect();
        assert_eq!(pauses.len(), 8);
        for (pause, longest) in pauses.iter().zip([100, 200, 400, 800, 1600, 2000, 2000, 2000]) {
            let longest = Duration::from_millis(longest);
            assert!(*pause >= longest / 2 && *pause <= longest, "{pauses:?}");
        }
    }

    #[test]
    fn what_the_server_asks_for_is_kept_within_reason() {
        let mut backoff = Backoff::new(3);
        assert!(backoff.pause(Some(Duration::from_secs(3))).unwrap() >= Duration::from_secs(3));
        assert_eq!(backoff.pause(Some(Duration::from_secs(11))), None);
        assert!(backoff.pause(None).is_some());
        assert_eq!(backoff.pause(None), None);
        assert_eq!(Backoff::new(1).pause(None), None);
    }
}
