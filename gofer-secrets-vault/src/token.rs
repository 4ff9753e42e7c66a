//! A token, and how long it lives.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::retry::jittered;

/// Renewal comes when about two thirds of the lease are over; the spread keeps several servers
/// apart.
const RENEW_FROM: f64 = 0.60;
const RENEW_TO: f64 = 0.72;

/// A token and what is known of it. Its `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) secret: SecretString,
    /// When it was got or last renewed, at the earliest.
    pub(crate) since: Instant,
    /// How long it lives from then on; `None` for ever.
    pub(crate) lease: Option<Duration>,
    /// How long a new one lives, and so what a renewal asks for.
    pub(crate) full_lease: Duration,
    pub(crate) renewable: bool,
    /// When it was got: a renewal does not change that.
    pub(crate) made: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("lease", &self.lease)
            .field("renewable", &self.renewable)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// A token that was asked for at `since`.
    pub(crate) fn new(
        secret: SecretString,
        since: Instant,
        lease: Option<Duration>,
        renewable: bool,
    ) -> Self {
        Self { secret, since, lease, full_lease: lease.unwrap_or_default(), renewable, made: since }
    }

    /// The same token after a renewal that was asked for at `since`.
    pub(crate) fn renewed(&self, since: Instant, lease: Option<Duration>, renewable: bool) -> Self {
        Self { since, lease, renewable, ..self.clone() }
    }

    /// Whether it is the same token, renewed or not.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
    }

    /// When to see to it that it goes on; `None` when it lives for ever.
    pub(crate) fn renewal(&self) -> Option<Instant> {
        self.lease.map(|lease| self.since + jittered(lease, RENEW_FROM, RENEW_TO))
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.lease.is_some_and(|lease| self.since.elapsed() >= lease)
    }

    /// Whether renewals give so little now that it is near the end of what it may live at all.
    pub(crate) fn is_fading(&self) -> bool {
        self.lease.is_some_and(|lease| lease < self.full_lease / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(lease: Option<u64>, full: u64) -> Token {
        let token = Token::new(
            "hunter2-token".into(),
            Instant::now(),
            Some(Duration::from_secs(full)),
            true,
        );
        token.renewed(token.since, lease.map(Duration::from_secs), true)
    }

    #[test]
    fn it_is_renewed_at_about_two_thirds() {
        let token = token(Some(3_600), 3_600);
        for _ in 0..100 {
            let after = token.renewal().unwrap() - token.since;
            assert!((2_160..=2_592).contains(&after.as_secs()), "{after:?}");
        }
        assert!(!token.is_expired() && !token.is_fading());
    }

    #[test]
    fn one_that_lives_for_ever_is_left_alone() {
        let token = Token::new("root".into(), Instant::now(), None, false);
        assert_eq!(token.renewal(), None);
        assert!(!token.is_expired() && !token.is_fading());
    }

    #[test]
    fn a_lease_below_half_is_the_beginning_of_the_end() {
        assert!(token(Some(29), 60).is_fading());
        assert!(!token(Some(30), 60).is_fading());
        assert!(token(Some(0), 60).is_expired());
    }

    #[test]
    fn debug_does_not_show_it() {
        assert!(!format!("{:?}", token(None, 0)).contains("hunter2"));
    }
}
