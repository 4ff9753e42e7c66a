//! The event stream: lossy, and sometimes worse.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Inner;
use super::http::{Call, Reply};

/// Nomad says `{}` so often.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// `GET /v1/event/stream`.
pub(super) fn stream(inner: &Arc<Inner>, call: &Call) -> Reply {
    let topics = call.query.iter().filter(|(key, _)| key == "topic");
    let topic = |(_, value): &(String, String)| {
        let (topic, key) = value.split_once(':').unwrap_or((value, "*"));
        (topic.to_owned(), key.to_owned())
    };
    let filter =
        Filter { topics: topics.map(topic).collect(), namespace: call.namespace().to_owned() };
    let from = call.get("index").parse().unwrap_or(0);
    let (sender, receiver) = mpsc::channel(1);
    // Subscribed here, so that whatever happens after the answer is on the stream.
    let next = inner
        .read(|state| if from == 0 { state.events.oldest() } else { state.events.closest(from) });
    tokio::spawn(feed(inner.clone(), filter, next, sender));
    Reply::Stream(ReceiverStream::new(receiver).boxed())
}

struct Filter {
    topics: Vec<(String, String)>,
    namespace: String,
}

impl Filter {
    /// What is left of an item, if anything.
    fn apply(&self, item: &Value) -> Option<Value> {
        let wanted = |event: &&Value| {
            let topic = |(topic, key): &(String, String)| {
                let named = event["Key"] == key.as_str()
                    || event["FilterKeys"]
                        .as_array()
                        .is_some_and(|keys| keys.iter().any(|k| k == key.as_str()));
                (topic == "*" || event["Topic"] == topic.as_str()) && (key == "*" || named)
            };

            let namespace = event["Namespace"] == ""
                || self.namespace == "*"
                || event["Namespace"] == self.namespace;
            namespace && self.topics.iter().any(topic)
        };

        let events: Vec<Value> =
            item["Events"].as_array()?.iter().filter(wanted).cloned().collect();
        (!events.is_empty()).then(|| json!({"Index": item["Index"], "Events": events}))
    }
}

async fn feed(
    inner: Arc<Inner>,
    filter: Filter,
    mut next: u64,
    sender: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut changed = inner.changed.subscribe();
    let mut cut = inner.cut_streams.subscribe();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);

    loop {
        let silent = inner.fault(|faults| faults.silent_streams);
        let lines = if silent { Some(Vec::new()) } else { take(&inner, &filter, &mut next) };

        // A reader that is too slow has lost what it did not read in time.
        let Some(lines) = lines else { return };
        for line in lines {
            tokio::select! {
                sent = sender.send(Ok(Bytes::from(format!("{line}\n")))) => {
                    if sent.is_err() {
                        return;
                    }
                }
                _ = cut.changed() => return,
            }
        }

        tokio::select! {
            _ = changed.changed() => {}
            _ = cut.changed() => return,
            () = sender.closed() => return,
            _ = heartbeat.tick() => {
                if !silent && sender.send(Ok(Bytes::from_static(b"{}\n"))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The lines that are due; nothing when some were dropped from the buffer before they were read.
fn take(inner: &Inner, filter: &Filter, next: &mut u64) -> Option<Vec<Value>> {
    let mut lines = inner.read(|state| {
        let events = &state.events;
        let emptied = events.items.is_empty();
        if *next < events.oldest() && !emptied {
            return None;
        }

        let items = (*next..=events.written).filter_map(|number| events.get(number));
        let lines: Vec<Value> = items.filter_map(|item| filter.apply(item)).collect();
        *next = events.written + 1;

        Some(lines)
    })?;

    if inner.fault(|faults| faults.reorder_events) {
        lines.chunks_mut(2).for_each(<[Value]>::reverse);
    }

    if inner.fault(|faults| faults.duplicate_events) {
        lines = lines.into_iter().flat_map(|line| [line.clone(), line]).collect();
    }

    Some(lines)
}
