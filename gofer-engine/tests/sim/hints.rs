//! What servers tell each other through the journal, as PostgreSQL does it: each life hears the
//! others, and of itself only wishes to cancel; what is lost is followed by the end of its stream.

use std::sync::{Arc, Mutex};

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use gofer_conformance::MemoryJournal;
use gofer_core::journal::{Hint, Hints as _};
use tokio::sync::Notify;

use crate::link::Link;
use crate::world::lock;

/// All hints there were.
pub(crate) struct Hints {
    journal: Arc<MemoryJournal>,
    heard: Mutex<BoxStream<'static, Hint>>,
    said: Mutex<Vec<Said>>,
    more: Notify,
}

#[derive(Debug, Clone)]
struct Said {
    by: String,
    /// `None`: too many to be heard.
    hint: Option<Hint>,
}

impl std::fmt::Debug for Hints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hints").field("said", &lock(&self.said).len()).finish()
    }
}

impl Hints {
    pub(crate) fn new(journal: Arc<MemoryJournal>) -> Self {
        let heard = Mutex::new(subscribe(&journal));
        Self { journal, heard, said: Mutex::default(), more: Notify::new() }
    }

    /// What came of the journal since the last call was said by this life of a server.
    pub(crate) fn said_by(&self, name: &str) {
        let mut heard = lock(&self.heard);
        let mut new = Vec::new();
        while let Some(hint) = heard.next().now_or_never() {
            if hint.is_none() {
                *heard = subscribe(&self.journal);
            }
            new.push(Said { by: name.to_owned(), hint });
        }
        if !new.is_empty() {
            lock(&self.said).extend(new);
            self.more.notify_waiters();
        }
    }

    /// What others say from now on.
    pub(crate) fn hear(self: &Arc<Self>, link: Arc<Link>) -> BoxStream<'static, Hint> {
        let at = lock(&self.said).len();
        let hearing = Hearing { hints: self.clone(), link, at };
        stream::unfold(hearing, |mut hearing| async move { Some((hearing.next().await?, hearing)) })
            .boxed()
    }
}

fn subscribe(journal: &MemoryJournal) -> BoxStream<'static, Hint> {
    journal.subscribe_hints().now_or_never().expect("it never waits").expect("it can be heard")
}

struct Hearing {
    hints: Arc<Hints>,
    link: Arc<Link>,
    at: usize,
}

impl Hearing {
    async fn next(&mut self) -> Option<Hint> {
        loop {
            self.link.survive().await;
            let more = self.hints.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();

            let said = lock(&self.hints.said).get(self.at).cloned();
            let Some(Said { by, hint }) = said else {
                more.await;
                continue;
            };

            self.at += 1;
            if by == self.link.name && !matches!(hint, Some(Hint::Cancel(_))) {
                continue;
            }

            if hint.is_none() || self.is_lost() {
                return self.breaks().await;
            }

            return hint;
        }
    }

    fn is_lost(&self) -> bool {
        let world = &self.link.world;
        !world.is_calm() && world.random(|rng| rng.chance(world.faults.lost_events))
    }

    /// The connection is gone, which is noticed at once or later.
    async fn breaks(&self) -> Option<Hint> {
        let deaf_ms =
            self.link.world.random(|rng| if rng.chance(500) { 0 } else { rng.below(5_000) });
        self.link.trace(|| format!("hears nobody for {deaf_ms} ms, then knows"));
        self.link.linger(deaf_ms).await;
        None
    }
}
