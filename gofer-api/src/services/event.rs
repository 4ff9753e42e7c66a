//! `EventService`.

use gofer_core::event::Event;
use gofer_core::id::RunNumber;
use gofer_db::EventFilter;
use gofer_proto::v1;
use tokio::sync::watch;

use crate::auth::Identity;
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, ReplyStream, service, target};
use crate::rpc::page::{self, Page};
use crate::rpc::streams::{HEARTBEAT_INTERVAL, ReplySender, StreamEnd, produce};

/// Events read at a time while following.
const EVENTS_PER_READ: usize = 200;

service! {
    v1::event_service_server::EventService {
        unary list_events(v1::ListEventsRequest) -> v1::ListEventsResponse;
        server_streaming follow_events(v1::FollowEventsRequest) -> FollowEventsStream<v1::FollowEventsResponse>;
    }
}

target!(namespace: ListEventsRequest, FollowEventsRequest);

/// What the caller asks for, within what it may see.
fn filter(
    identity: &Identity,
    namespace: &str,
    pipeline: &str,
    run: u64,
    types: &[String],
) -> Result<EventFilter, ApiError> {
    if namespace.is_empty() && !pipeline.is_empty() {
        return Err(ApiError::invalid("pipeline", pipeline, "needs `namespace`, too"));
    }

    if pipeline.is_empty() && run > 0 {
        return Err(ApiError::invalid("run", run.to_string(), "needs `pipeline`, too"));
    }

    let types = convert::event_types(types)?;
    let (namespaces, pipeline) = match (namespace, pipeline) {
        ("", _) => (identity.visible_namespaces(), None),
        (namespace, "") => (Some(vec![convert::namespace_id(namespace)?]), None),
        (namespace, pipeline) => {
            let (namespace, pipeline) = convert::pipeline_key(namespace, "pipeline", pipeline)?;
            (Some(vec![namespace]), Some(pipeline))
        }
    };

    Ok(EventFilter { namespaces, pipeline, run: (run > 0).then_some(RunNumber(run)), types })
}

async fn list_events(
    call: Call,
    request: v1::ListEventsRequest,
) -> Result<v1::ListEventsResponse, ApiError> {
    let page = Page::of(&request)?;
    let filter =
        filter(&call.identity, &request.namespace, &request.pipeline, request.run, &request.types)?;
    let cursor = match &page.after {
        None => request.after_id,
        Some(after) => after.parse().map_err(|_| page::bad_token(&request.page_token))?,
    };

    if !request.reverse && page.after.is_none() {
        is_kept(&call, cursor).await?;
    }

    let limit = page.limit + 1;
    let mut found = if request.reverse {
        call.db.event_list_before((cursor > 0).then_some(cursor), &filter, limit).await?
    } else {
        call.db.event_list_after(cursor, &filter, limit).await?
    };

    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let end = found.last().filter(|_| more).map(|event| event.id.to_string());
    let next_page_token = page.next(end.as_deref());

    Ok(v1::ListEventsResponse {
        events: found.into_iter().map(convert::event).collect(),
        next_page_token,
    })
}

async fn follow_events(
    call: Call,
    request: v1::FollowEventsRequest,
) -> Result<ReplyStream<v1::FollowEventsResponse>, ApiError> {
    let filter =
        filter(&call.identity, &request.namespace, &request.pipeline, request.run, &request.types)?;
    let mut committed = call.db.event_watch();
    let newest = *committed.borrow_and_update();
    let cursor = request.after_id.unwrap_or(newest);
    is_kept(&call, cursor).await?;
    Ok(produce(&call.clone(), move |replies| follow(call, filter, cursor, committed, replies)))
}

/// Refuses to leave out what came after the cursor. Without a cursor (0) nobody has missed
/// anything.
async fn is_kept(call: &Call, cursor: u64) -> Result<(), ApiError> {
    if cursor == 0 {
        return Ok(());
    }
    let oldest = call.db.event_oldest().await?;
    if cursor + 1 < oldest {
        Err(ApiError::EventsExpired { after: cursor, oldest })
    } else {
        Ok(())
    }
}

/// Reads from the cursor to the end, then sleeps until something is committed; a sign of life in
/// between.
async fn follow(
    call: Call,
    filter: EventFilter,
    mut cursor: u64,
    mut committed: watch::Receiver<u64>,
    replies: ReplySender<v1::FollowEventsResponse>,
) -> Result<(), StreamEnd> {
    loop {
        let newest = *committed.borrow_and_update();
        let found = call.db.event_list_after(cursor, &filter, EVENTS_PER_READ).await?;
        let full = found.len() == EVENTS_PER_READ;

        for event in found {
            cursor = event.id;
            call.metrics.event_sent(event.body.at);
            replies.send(response(Some(event), cursor)).await?;
        }

        if full {
            continue;
        }

        // Ids follow the order of commits: up to the newest known one everything has been looked
        // at.
        cursor = cursor.max(newest);
        loop {
            match tokio::time::timeout(HEARTBEAT_INTERVAL, committed.changed()).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => return Err(StreamEnd::Failed(ApiError::ShuttingDown)),
                Err(_) => replies.send(response(None, cursor)).await?,
            }
        }
    }
}

fn response(event: Option<Event>, cursor: u64) -> v1::FollowEventsResponse {
    v1::FollowEventsResponse { event: event.map(convert::event), cursor }
}
