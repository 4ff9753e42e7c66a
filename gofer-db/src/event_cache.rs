//! The newest events in memory: following them reads no disk, and wakes no thread.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gofer_core::event::{Event, EventDetails};

use crate::types::{EventFilter, MAX_PAGE};

/// Events that are kept, of about half a kilobyte each.
const EVENTS_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(crate) struct EventCache(Mutex<VecDeque<Event>>);

impl EventCache {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was just committed, in order. To be called in the order of commits.
    pub(crate) fn add(&self, events: Vec<Event>) {
        let mut kept = self.lock();
        let follows =
            kept.back().zip(events.first()).is_none_or(|(last, first)| last.id + 1 == first.id);
        if !follows {
            kept.clear();
        }

        kept.extend(events);
        // A name says which namespace is meant only as long as it has one: what came before is left
        // to the table, which has ids.
        let is_end =
            |event: &Event| matches!(event.body.details, EventDetails::NamespaceDeleted {});
        if let Some(end) = kept.iter().rposition(is_end) {
            kept.drain(..=end);
        }

        let surplus = kept.len().saturating_sub(EVENTS_MAX);
        kept.drain(..surplus);
    }

    /// The events up to this one were deleted.
    pub(crate) fn forget(&self, up_to: u64) {
        let mut kept = self.lock();
        let gone = kept.iter().take_while(|event| event.id <= up_to).count();
        kept.drain(..gone);
    }

    /// The events after the cursor, ascending; `None` when they do not reach back that far.
    pub(crate) fn after(
        &self,
        cursor: u64,
        filter: &EventFilter,
        limit: usize,
    ) -> Option<Vec<Event>> {
        let kept = self.lock();
        let first = kept.front()?.id;
        let skip = usize::try_from((cursor + 1).checked_sub(first)?).unwrap_or(usize::MAX);
        let limit = limit.clamp(1, MAX_PAGE);
        Some(
            kept.iter()
                .skip(skip)
                .filter(|event| matches(filter, event))
                .take(limit)
                .cloned()
                .collect(),
        )
    }
}

/// The filter of `queries/events.rs`, on an event.
fn matches(filter: &EventFilter, event: &Event) -> bool {
    let subject = &event.body.subject;
    filter
        .namespaces
        .as_ref()
        .is_none_or(|allowed| subject.namespace.as_ref().is_some_and(|id| allowed.contains(id)))
        && filter.pipeline.as_ref().is_none_or(|wanted| subject.pipeline.as_ref() == Some(wanted))
        && filter.run.is_none_or(|wanted| subject.run == Some(wanted))
        && (filter.types.is_empty()
            || filter.types.iter().any(|name| name == event.body.details.type_name()))
}

#[cfg(test)]
mod tests {
    use gofer_core::Timestamp;
    use gofer_core::event::{EventDetails, NewEvent, Subject};

    use super::*;

    fn events(ids: std::ops::RangeInclusive<u64>) -> Vec<Event> {
        let body = |id: u64| NewEvent {
            at: Timestamp(0),
            actor: "test".to_owned(),
            subject: Subject { run: Some(gofer_core::RunNumber(id % 2)), ..Subject::default() },
            details: EventDetails::RunStarted {},
        };
        ids.map(|id| Event { id, body: body(id) }).collect()
    }

    fn ids(
        cache: &EventCache,
        cursor: u64,
        filter: &EventFilter,
        limit: usize,
    ) -> Option<Vec<u64>> {
        Some(cache.after(cursor, filter, limit)?.iter().map(|event| event.id).collect())
    }

    #[test]
    fn it_answers_only_what_it_knows_whole() {
        let (cache, any) = (EventCache::default(), EventFilter::default());
        assert_eq!(ids(&cache, 0, &any, 10), None, "nothing is known yet");
        cache.add(events(5..=8));
        assert_eq!(ids(&cache, 3, &any, 10), None, "4 is not known");
        assert_eq!(ids(&cache, 4, &any, 10), Some(vec![5, 6, 7, 8]));
        assert_eq!(ids(&cache, 6, &any, 1), Some(vec![7]));
        assert_eq!(ids(&cache, 8, &any, 10), Some(vec![]));
        assert_eq!(
            ids(&cache, 4, &EventFilter { run: Some(gofer_core::RunNumber(1)), ..any.clone() }, 10),
            Some(vec![5, 7])
        );
        cache.add(events(20..=21));
        assert_eq!(ids(&cache, 8, &any, 10), None, "9 to 19 were missed");
        cache.add(events(22..=22 + EVENTS_MAX as u64));
        assert_eq!(ids(&cache, 21, &any, 10), None, "the oldest make room");

        let last = 22 + EVENTS_MAX as u64;
        let mut end = events(last + 1..=last + 3);
        end[1].body.details = EventDetails::NamespaceDeleted {};
        cache.add(end);
        assert_eq!(ids(&cache, last + 1, &any, 10), None, "a namespace was deleted");
        assert_eq!(ids(&cache, last + 2, &any, 10), Some(vec![last + 3]));
    }
}
