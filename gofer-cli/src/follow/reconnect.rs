//! What a stream does when it is cut: it goes on as soon as the server is back, and gives up when
//! that takes too long.

use std::time::{Duration, Instant};

use crate::client::Contact;
use crate::errors::{Exit, Failure};

/// A server that was restarted is back within seconds; one that is not back after this is gone.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(2);

/// A stream that was open for so long was not cut in vain: it is a new cut when it ends.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// How long is still waited for a server that has answered before.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Shared by all streams of a command: one that has not been opened yet is cut like the others.
    contact: Contact,
    opened_at: Option<Instant>,
    cut_at: Option<Instant>,
    delay: Duration,
    /// Refused once for the token, since something has come.
    refused: bool,
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
    pub(crate) fn new(contact: &Contact) -> Self {
        Self {
            contact: contact.clone(),
            opened_at: None,
            cut_at: None,
            delay: FIRST_DELAY,
            refused: false,
        }
    }

    /// The stream is open, though nothing has come yet.
    pub(crate) fn opened(&mut self) {
        self.opened_at = Some(Instant::now());
    }

    /// Something has come.
    pub(crate) fn progress(&mut self) {
        self.cut_at = None;
        self.refused = false;
    }

    /// The stream was cut.
    ///
    /// # Errors
    /// The cut's own failure when trying again is no use: the server refused, has never answered,
    /// or is gone for long.
    pub(crate) fn after(&mut self, cut: Failure) -> Result<Pause, Failure> {
        // A server that is started again makes another token. A call that read the old one just
        // before is refused, and the next one reads the new one.
        let is_of_before = cut.lacks_token() && !std::mem::replace(&mut self.refused, true);
        if !(cut.exit == Exit::Unreachable || is_of_before) || !self.contact.is_made() {
            return Err(cut);
        }

        if self.opened_at.take().is_some_and(|since| since.elapsed() > PROVEN_AFTER) {
            self.cut_at = None;
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

    fn answered() -> Patience {
        let contact = Contact::default();
        contact.make();
        Patience::new(&contact)
    }

    #[test]
    fn a_server_that_never_answered_is_not_waited_for() {
        let contact = Contact::default();
        let mut patience = Patience::new(&contact);
        assert!(patience.after(Failure::unreachable("gone")).is_err());
        contact.make();
        assert!(
            patience.after(Failure::unreachable("gone")).is_ok(),
            "it has answered another stream"
        );
    }

    #[test]
    fn a_refusal_is_final() {
        assert!(answered().after(Failure::refused("no")).is_err());
    }

    #[test]
    fn a_token_is_refused_twice_before_that_is_final() {
        let refused = || Failure::from(tonic::Status::unauthenticated("not known"));
        let mut patience = answered();
        assert!(patience.after(refused()).is_ok() && patience.after(refused()).is_err());
        patience.progress();
        assert!(patience.after(refused()).is_ok());
    }

    #[test]
    fn cuts_in_a_row_are_told_once_and_waits_grow() {
        let mut patience = answered();
        let pauses: Vec<_> = (0..7)
            .map(|_| {
                // As before a proxy whose server is gone.
                patience.opened();
                patience.after(Failure::unreachable("gone")).expect("a pause")
            })
            .collect();

        assert_eq!(pauses.iter().filter(|pause| pause.note.is_some()).count(), 1);
        assert!(pauses.windows(2).all(|pair| pair[0].delay <= pair[1].delay));
        assert_eq!(pauses[6].delay, LAST_DELAY);
        patience.progress();
        assert_eq!(
            patience.after(Failure::unreachable("gone")).expect("a pause").delay,
            FIRST_DELAY
        );
    }
}
