//! An object that comes through the server: bytes go to a fresh location while they are counted and
//! hashed; only when all are there does a record name them. Whatever ends an upload early leaves
//! the old object as it was, and no bytes behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{ByteStream, PutOptions};
use gofer_core::quota::QuotaKind;
use gofer_core::{BackendError, ErrorKind, Resource, RunKey, Timestamp};
use gofer_db::{DbError, ObjectPut};
use gofer_engine::layout;
use sha2::{Digest, Sha256};

use super::stored::{Objects, RecordedObject};
use crate::auth::Standing;
use crate::error::ApiError;
use crate::hex;
use crate::operations::disk::FreeDisk;
use crate::operations::in_flight::{InFlight, Share};

/// An object that a caller sends.
#[derive(Debug, Clone)]
pub(crate) struct NewObject {
    pub(crate) scope: ObjectScope,
    pub(crate) key: ObjectKey,
    /// How many bytes the caller says that there are.
    pub(crate) size_bytes: Option<u64>,
    /// Only if the key is free.
    pub(crate) if_absent: bool,
}

/// The room that uploads share.
#[derive(Debug, Clone)]
pub(crate) struct UploadRoom {
    /// The disks that uploads may fill.
    pub(crate) disk: Arc<FreeDisk>,
    /// Bytes of uploads that no record names yet.
    pub(crate) arriving: Arc<InFlight>,
}

impl Objects<'_> {
    /// Stores what the pieces bring as an object, and records it; a caller who has lost its
    /// standing by then has sent in vain.
    pub(crate) async fn put(
        &self,
        new: NewObject,
        pieces: BoxStream<'static, Result<Bytes, ApiError>>,
        room: &UploadRoom,
        standing: &Standing,
    ) -> Result<RecordedObject, ApiError> {
        let NewObject { scope, key, size_bytes: declared_bytes, if_absent } = new;
        let limit_bytes = self.limits.object_max_bytes;
        if let Some(at_least_bytes) = declared_bytes.filter(|declared| *declared > limit_bytes) {
            return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes });
        }

        self.check_owner(&scope).await?;

        // This only spares the work: the transaction of the last step decides.
        if if_absent && self.db.object_get(&scope, &key).await.is_ok() {
            return Err(ApiError::AlreadyExists { what: Resource::Object, key: key.to_string() });
        }

        room.disk.check()?;
        let quota =
            self.db.quota_get(&scope.namespace, QuotaKind::ObjectBytes, Timestamp::now()).await?;
        let mut share = Share::new(&room.arriving, &scope.namespace, quota);
        share.grow_to(declared_bytes.unwrap_or(0))?;

        let location = layout::object_location(&scope);
        let arriving = Arc::new(Mutex::new(Arriving {
            hash: Sha256::new(),
            size_bytes: 0,
            declared_bytes,
            limit_bytes,
            pace: Pace {
                began: Instant::now(),
                grace: self.limits.idle_timeout,
                rate: self.limits.upload_min_rate,
            },
            disk: room.disk.clone(),
            share,
            problem: None,
        }));
        let stored =
            self.store.put(&location, body(pieces, arriving.clone()), PutOptions::default()).await;

        let (size_bytes, sha256) = match (Arriving::end(&arriving), stored) {
            (Err(problem), _) => {
                // The store drops what it has of a stream that breaks. One that did not must not
                // keep it.
                self.forget(&location).await;
                return Err(problem);
            }
            (Ok(_), Err(error)) => return Err(error.into()),
            (Ok(arrived), Ok(_)) => arrived,
        };

        if let Some(loss) = standing.loss() {
            self.forget(&location).await;
            return Err(loss);
        }

        let put = ObjectPut { if_absent, keep: self.keep(&scope) };
        let record =
            ObjectRecord { scope, key, location, size_bytes, sha256, created_at: Timestamp::now() };
        self.record(record, put).await
    }

    /// The pipeline, and where it is of one the run, are there.
    async fn check_owner(&self, scope: &ObjectScope) -> Result<(), ApiError> {
        self.db.pipeline_get(&scope.namespace, &scope.pipeline).await?;
        if let Some(run) = scope.run {
            let (namespace, pipeline) = (scope.namespace.clone(), scope.pipeline.clone());
            self.db.run_get(&RunKey { namespace, pipeline, run }).await?;
        }
        Ok(())
    }

    /// Makes the bytes an object, then deletes those that are none any more.
    async fn record(
        &self,
        record: ObjectRecord,
        put: ObjectPut,
    ) -> Result<RecordedObject, ApiError> {
        let outcome = match self.db.object_put_record(&record, put, &self.actor).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // Only where it is sure that no record names them. After a lost answer the
                // transaction may have been committed, and deleting the bytes would lose the
                // object.
                if matches!(
                    error,
                    DbError::NotFound { .. } | DbError::AlreadyExists { .. } | DbError::Quota(_)
                ) {
                    self.forget(&record.location).await;
                }
                return Err(error.into());
            }
        };

        for old in outcome.replaced.iter().chain(&outcome.evicted) {
            self.forget(&old.location).await;
        }

        let evicted_keys = outcome.evicted.iter().map(|old| old.key.to_string()).collect();
        Ok(RecordedObject { record, evicted_keys })
    }
}

/// What has arrived so far, and what went wrong.
struct Arriving {
    hash: Sha256,
    size_bytes: u64,
    declared_bytes: Option<u64>,
    limit_bytes: u64,
    pace: Pace,
    disk: Arc<FreeDisk>,
    /// Counts in the namespace's quota until the object is recorded.
    share: Share,
    problem: Option<ApiError>,
}

/// How fast an upload has to be: one byte per second would occupy the server for ever.
struct Pace {
    began: Instant,
    /// What every upload may take.
    grace: Duration,
    /// Bytes per second beyond that, on average.
    rate: u64,
}

impl Pace {
    fn check(&self, bytes: u64) -> Result<(), ApiError> {
        let seconds = self.began.elapsed().as_secs();
        let due = seconds.saturating_sub(self.grace.as_secs()).saturating_mul(self.rate);
        if bytes < due {
            Err(ApiError::UploadTooSlow { bytes, seconds, rate: self.rate })
        } else {
            Ok(())
        }
    }
}

impl Arriving {
    /// The next bytes for the store; `None` at the end.
    fn accept(&mut self, piece: Option<Bytes>) -> Result<Option<Bytes>, ApiError> {
        let Some(piece) = piece else {
            return match self.declared_bytes {
                Some(declared) if declared != self.size_bytes => {
                    let rule = format!("{} bytes arrived", self.size_bytes);
                    Err(ApiError::invalid("header.size_bytes", declared.to_string(), rule))
                }
                _ => Ok(None),
            };
        };

        self.size_bytes += piece.len() as u64;
        if self.size_bytes > self.limit_bytes {
            let (limit_bytes, at_least_bytes) = (self.limit_bytes, self.size_bytes);
            return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes });
        }

        self.pace.check(self.size_bytes)?;
        self.disk.check()?;
        self.share.grow_to(self.size_bytes)?;
        self.hash.update(&piece);

        Ok(Some(piece))
    }

    /// Size and hash of the whole object, or why it is not whole.
    fn end(shared: &Mutex<Self>) -> Result<(u64, String), ApiError> {
        let mut arriving = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match arriving.problem.take() {
            Some(problem) => Err(problem),
            None => Ok((arriving.size_bytes, hex::encode(&arriving.hash.clone().finalize()))),
        }
    }
}

/// The bytes as the object store takes them. The store sees only that its stream broke; why is kept
/// beside it.
fn body(
    pieces: BoxStream<'static, Result<Bytes, ApiError>>,
    arriving: Arc<Mutex<Arriving>>,
) -> ByteStream {
    let broken = || BackendError::new(ErrorKind::Invalid, "the upload ended early");
    let chunks = stream::try_unfold((pieces, arriving), move |(mut pieces, arriving)| async move {
        let piece = pieces.try_next().await;
        let mut state = arriving.lock().unwrap_or_else(PoisonError::into_inner);
        match piece.and_then(|piece| state.accept(piece)) {
            Ok(Some(chunk)) => {
                drop(state);
                Ok(Some((chunk, (pieces, arriving))))
            }
            Ok(None) => Ok(None),
            Err(problem) => {
                state.problem = Some(problem);
                Err(broken())
            }
        }
    });

    chunks.boxed()
}
