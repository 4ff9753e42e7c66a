//! The body of an answer. It notes when the connection takes no more of it, and holds what belongs
//! to the call until it is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::transport::{Charge, InFlight, Stall};

/// An answer on its way.
pub(super) struct Answer {
    body: Body,
    stall: Option<Arc<Stall>>,
    _in_flight: InFlight,
    _memory: Option<Arc<Charge>>,
}

impl Answer {
    pub(super) fn new(
        body: Body,
        stall: Option<Arc<Stall>>,
        in_flight: InFlight,
        memory: Option<Arc<Charge>>,
    ) -> Self {
        Self { body, stall, _in_flight: in_flight, _memory: memory }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Asked for more, the connection has taken what it was given.
        if let Some(stall) = &self.stall {
            stall.end();
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(stall) = &self.stall {
            stall.begin();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    /// The connection of HTTP/1 goes on to the next request.
    fn drop(&mut self) {
        if let Some(stall) = &self.stall {
            stall.end();
        }
    }
}
