//! The body of a request, a message at a time: a message is passed on once all of it is there, was
//! counted and is paid for. Half a message is this reader's alone, with a time limit, so nothing
//! behind it holds memory for callers that stall.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::shape::SHAPES;
use super::walk::{Walk, too_large};
use crate::error::ApiError;
use crate::transport::{Account, Charge};

/// Before each message: whether it is compressed, and its length.
const MESSAGE_PREFIX_BYTES: usize = 5;
/// Copies of a message that are in memory while it is decoded: as it arrived, with room to grow,
/// and as it is handed on.
const MESSAGE_COPIES: usize = 3;
/// The charge of a message grows by steps of this, so that small pieces cost few of them.
const CHARGE_STEP_BYTES: usize = 16 * 1024;

/// What holds for the messages of one request.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Longest message.
    pub(super) max_bytes: u64,
    /// The message's shape, where the contract knows it.
    pub(super) shape: Option<usize>,
    /// Whether more than one may come.
    pub(super) many: bool,
    /// When everything must be there, for one message.
    pub(super) deadline: Instant,
    /// How long one of many may take, from its first byte.
    pub(super) patience: Duration,
    /// Whether the next of many must come as soon.
    pub(super) hurry: bool,
}

/// The memory of the message that is being handled. Whoever handles it after the call has been
/// answered keeps this.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Charge>>);

impl Held {
    fn put(&self, charge: Charge) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = charge;
    }
}

/// Whether all of a request has arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrived(Arc<AtomicBool>);

impl Arrived {
    pub(super) fn happened(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Reads messages.
struct Reader {
    body: Body,
    rules: Rules,
    account: Account,
    held: Held,
    arrived: Arrived,
    /// What has been read of the next message.
    rest: Bytes,
    messages: u64,
}

/// Why a body ends early: what this module says, or what the connection says.
enum Broken {
    Here(ApiError),
    There(Status),
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Self {
        Self::Here(error)
    }
}

/// The same body, message by message.
pub(super) fn whole_messages(
    body: Body,
    rules: Rules,
    account: Account,
    held: Held,
    arrived: Arrived,
) -> Body {
    let reader = Reader { body, rules, account, held, arrived, rest: Bytes::new(), messages: 0 };
    let frames = futures::stream::try_unfold(reader, |mut reader| async move {
        let message = reader.next().await.map_err(|broken| match broken {
            Broken::Here(error) => Status::from(error),
            Broken::There(status) => status,
        })?;
        Ok::<_, Status>(message.map(|message| (message, reader)))
    });
    Body::new(StreamBody::new(frames.map_ok(Frame::data)))
}

impl Reader {
    /// The next message with its prefix; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        // The handler asks for the next message, so that it is done with the one before.
        if self.rules.many {
            self.held.put(Charge::default());
        }

        if !self.rules.many {
            let deadline = self.rules.deadline;
            return tokio::time::timeout_at(deadline, self.only())
                .await
                .unwrap_or_else(|_| Err(ApiError::RequestIncomplete.into()));
        }

        let first = match self.rules.hurry {
            true => tokio::time::timeout(self.rules.patience, self.more()).await,
            false => Ok(self.more().await),
        };

        if !first.unwrap_or_else(|_| Err(ApiError::RequestIncomplete.into()))? {
            self.arrived.0.store(true, Ordering::Release);
            return Ok(None);
        }

        tokio::time::timeout(self.rules.patience, self.message())
            .await
            .unwrap_or_else(|_| Err(ApiError::RequestIncomplete.into()))
            .map(Some)
    }

    /// The only message, then the end.
    async fn only(&mut self) -> Result<Option<Bytes>, Broken> {
        if !self.more().await? {
            self.arrived.0.store(true, Ordering::Release);
            return Ok(None);
        }
        if self.messages > 0 {
            return Err(ApiError::Malformed {
                problem: "a call that takes one message got more".to_owned(),
            }
            .into());
        }
        self.message().await.map(Some)
    }

    /// Waits for the first byte of a message.
    async fn more(&mut self) -> Result<bool, Broken> {
        while self.rest.is_empty() {
            match self.frame().await? {
                Some(bytes) => self.rest = bytes,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next bytes of the body.
    async fn frame(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(status)) => return Err(Broken::There(status)),
                Some(Ok(frame)) => {
                    // Trailers of a request say nothing.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// A whole message, of which the first byte is there.
    async fn message(&mut self) -> Result<Bytes, Broken> {
        while self.rest.len() < MESSAGE_PREFIX_BYTES {
            let more = self.frame().await?.ok_or_else(cut)?;
            self.rest = [&self.rest[..], &more[..]].concat().into();
        }

        let length = self.length()?;
        let whole = MESSAGE_PREFIX_BYTES + usize::try_from(length).unwrap_or(usize::MAX);
        let mut walk = self.rules.shape.map(|shape| Walk::new(&SHAPES, shape, length));
        let mut charge = Charge::default();

        // Most messages come in one piece, which is passed on without a copy.
        if self.rest.len() >= whole {
            let message = self.rest.split_to(whole);
            Self::look_at(
                &self.account,
                &mut walk,
                &message[MESSAGE_PREFIX_BYTES..],
                whole,
                &mut charge,
            )
            .await?;
            return self.pass(message, walk, charge);
        }

        let mut gathered = BytesMut::new();
        let mut piece = std::mem::take(&mut self.rest);
        let mut skip = MESSAGE_PREFIX_BYTES;

        loop {
            let taken = piece.split_to(piece.len().min(whole - gathered.len()));
            Self::look_at(
                &self.account,
                &mut walk,
                &taken[skip..],
                gathered.len() + taken.len(),
                &mut charge,
            )
            .await?;
            gathered.extend_from_slice(&taken);
            skip = 0;
            if gathered.len() == whole {
                self.rest = piece;
                return self.pass(gathered.freeze(), walk, charge);
            }

            piece = self.frame().await?.ok_or_else(cut)?;
        }
    }

    fn length(&self) -> Result<u64, ApiError> {
        let mut prefix = &self.rest[..MESSAGE_PREFIX_BYTES];
        if prefix.get_u8() != 0 {
            return Err(ApiError::Malformed {
                problem: "a message is compressed; send it as it is".to_owned(),
            });
        }
        let length = u64::from(prefix.get_u32());
        match length > self.rules.max_bytes {
            true => Err(too_large("bytes", length, self.rules.max_bytes)),
            false => Ok(length),
        }
    }

    /// Counts a piece, and pays for it and what becomes of it.
    async fn look_at(
        account: &Account,
        walk: &mut Option<Walk<'_>>,
        piece: &[u8],
        arrived_bytes: usize,
        charge: &mut Charge,
    ) -> Result<(), ApiError> {
        let mut cost = 0;
        if let Some(walk) = walk {
            walk.go_on(piece)?;
            cost = usize::try_from(walk.cost()).unwrap_or(usize::MAX);
        }
        let needed = (MESSAGE_COPIES * arrived_bytes).saturating_add(cost);
        account
            .raise(
                charge,
                needed.next_multiple_of(if needed > CHARGE_STEP_BYTES {
                    CHARGE_STEP_BYTES
                } else {
                    1024
                }),
            )
            .await
    }

    fn pass(
        &mut self,
        message: Bytes,
        walk: Option<Walk<'_>>,
        charge: Charge,
    ) -> Result<Bytes, Broken> {
        walk.map_or(Ok(()), Walk::end)?;
        self.messages += 1;
        self.held.put(charge);
        Ok(message)
    }
}

fn cut() -> ApiError {
    ApiError::Malformed { problem: "it ends in the middle of a message".to_owned() }
}
