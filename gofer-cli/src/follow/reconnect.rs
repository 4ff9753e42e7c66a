//! What a stream does when it is cut: it goes on as soon as the server is back, and gives up when that takes too long.

use std::time::{Duration, Instant};

use crate::errors::{Exit, Failure};

/// A server that was restarted is back within seconds; one that is not back after this is gone.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(2);

/// How long is still waited for a server that has answered before.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    contact: bool,
    cut_at: Option<Instant>,
    delay: Duration,
}

/// What to do after a cut.
#[derive(Debug)]
pub(crate) struct Pause {
    /// How long to wait before the next try.
    pub(crate) delay: Duration,
    /// What a person should know; only after the first of several cuts in a row.
    pub(crate) note: Option<String>,
}

impl Patience {
    /// The server has answered.
    pub(crate) fn contact(&mut self) {
        self.contact = true;
        self.cut_at = None;
    }

    /// The stream was cut.
    ///
    /// # Errors
    /// The cut's own failure when trying again is no use: the server refused, has never answered, or is gone for long.
    pub(crate) fn after(&mut self, cut: Failure) -> Result<Pause, Failure> {
        if cut.exit != Exit::Unreachable || !self.contact {
            return Err(cut);
        }
        match self.cut_at {
            None => {
                self.cut_at = Some(Instant::now());
                self.delay = FIRST_DELAY;
                let note = Some("the connection to the server was lost; trying again".to_owned());
                Ok(Pause { delay: self.delay, note })
            }
            Some(since) if since.elapsed() > GIVE_UP_AFTER => Err(cut),
            Some(_) => {
                self.delay = (self.delay * 2).min(LAST_DELAY);
                Ok(Pause { delay: self.delay, note: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_never_answered_is_not_waited_for() {
        assert!(Patience::default().after(Failure::unreachable("gone")).is_err());
    }

    #[test]
    fn a_refusal_is_final() {
        let mut patience = Patience::default();
        patience.contact();
        assert!(patience.after(Failure::refused("no")).is_err());
    }

    #[test]
    fn cuts_in_a_row_are_told_once_and_waits_grow() {
        let mut patience = Patience::default();
        patience.contact();
        let pauses: Vec<_> = (0..7).map(|_| patience.after(Failure::unreachable("gone")).expect("a pause")).collect();
        assert_eq!(pauses.iter().filter(|pause| pause.note.is_some()).count(), 1);
        assert!(pauses.windows(2).all(|pair| pair[0].delay <= pair[1].delay));
        assert_eq!(pauses[6].delay, LAST_DELAY);
    }
}
