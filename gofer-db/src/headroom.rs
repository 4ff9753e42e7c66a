//! How much of a quota a namespace can have used at most, without counting.
//!
//! Ids of runs count up over all namespaces and servers. So after a count of a namespace's runs at
//! the time of id N, at most `count + (M - N)` of them can be there when the newest id is M,
//! whoever inserted them. While that is within the limit nothing needs to be counted; when it is
//! not, it is counted again in the database. Nothing here says what is true, only when it need not
//! be asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gofer_core::NamespaceId;
use gofer_core::quota::Quotas;

/// Namespaces that are remembered; beyond, all are counted anew.
const MAX_NAMESPACES: usize = 10_000;

/// The limits where a namespace has none of its own, and what was counted last.
#[derive(Debug, Default)]
pub(crate) struct QuotaBook {
    pub(crate) defaults: Quotas,
    counted: Mutex<HashMap<NamespaceId, Counted>>,
}

/// What was counted of a namespace, each with the newest run's id then.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    unfinished: Option<Count>,
    /// Started within the minute.
    started: Option<(i64, Count)>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    number: i64,
    newest: i64,
}

impl Count {
    fn bound(self, newest: i64) -> i64 {
        self.number.saturating_add(newest.saturating_sub(self.newest).max(0))
    }
}

impl QuotaBook {
    pub(crate) fn new(defaults: Quotas) -> Self {
        Self { defaults, counted: Mutex::default() }
    }

    /// Most runs of the namespace that can be unfinished when this id is the newest; `None` before
    /// the first count.
    pub(crate) fn unfinished_at_most(&self, namespace: &NamespaceId, newest: i64) -> Option<i64> {
        Some(self.counted().get(namespace)?.unfinished?.bound(newest))
    }

    /// Most runs of the namespace that can have been started in this minute.
    pub(crate) fn started_at_most(
        &self,
        namespace: &NamespaceId,
        minute: i64,
        newest: i64,
    ) -> Option<i64> {
        let (counted_in, count) = self.counted().get(namespace)?.started?;
        // Of a later minute are at most those that came after the count.
        let number = if counted_in == minute { count.number } else { 0 };
        Some(Count { number, ..count }.bound(newest))
    }

    pub(crate) fn counted_unfinished(&self, namespace: &NamespaceId, number: i64, newest: i64) {
        self.change(namespace, |counted| counted.unfinished = Some(Count { number, newest }));
    }

    pub(crate) fn counted_started(
        &self,
        namespace: &NamespaceId,
        minute: i64,
        number: i64,
        newest: i64,
    ) {
        self.change(namespace, |counted| {
            counted.started = Some((minute, Count { number, newest }))
        });
    }

    /// Runs were deleted: an engine that gives ids of deleted rows again counts from a smaller one.
    pub(crate) fn forget(&self) {
        self.counted().clear();
    }

    fn change(&self, namespace: &NamespaceId, change: impl FnOnce(&mut Counted)) {
        let mut counted = self.counted();
        if counted.len() >= MAX_NAMESPACES {
            counted.clear();
        }
        change(counted.entry(namespace.clone()).or_default());
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<NamespaceId, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_grows_with_every_run_of_anybody() {
        let (book, red) = (QuotaBook::default(), NamespaceId::new("red").unwrap());
        assert_eq!(book.unfinished_at_most(&red, 10), None, "not counted yet");
        book.counted_unfinished(&red, 3, 10);
        assert_eq!(
            [10, 11, 17].map(|newest| book.unfinished_at_most(&red, newest)),
            [Some(3), Some(4), Some(10)]
        );
        assert_eq!(
            book.unfinished_at_most(&red, 9),
            Some(3),
            "an id that was rolled back comes again"
        );
        book.forget();
        assert_eq!(book.unfinished_at_most(&red, 11), None);
    }

    #[test]
    fn a_minute_begins_with_what_came_after_the_count() {
        let (book, red) = (QuotaBook::default(), NamespaceId::new("red").unwrap());
        book.counted_started(&red, 5, 100, 1_000);
        assert_eq!(book.started_at_most(&red, 5, 1_007), Some(107));
        assert_eq!(
            book.started_at_most(&red, 6, 1_007),
            Some(7),
            "those of the minute before are over"
        );
    }
}
