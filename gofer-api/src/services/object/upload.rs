//! `PutObject`: bytes go to a fresh location while they are counted and hashed; only when all are
//! there does a record name them. Whatever ends an upload early leaves the old object as it was,
//! and no bytes behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use gofer_core::entity::ObjectRecord;
use gofer_core::object_store::{ByteStream, PutOptions};
use gofer_core::quota::QuotaKind;
use gofer_core::{BackendError, ErrorKind, Resource, RunKey, Timestamp};
use gofer_db::{DbError, ObjectPut};
use gofer_engine::layout;
use gofer_proto::v1;
use gofer_proto::v1::put_object_request::Part;
use sha2::{Digest, Sha256};
use tonic::{Extensions, Streaming};

use super::{forget, key};
use crate::auth::Standing;
use crate::convert;
use crate::convert::spec_diff::hex;
use crate::error::ApiError;
use crate::operations::in_flight::Share;
use crate::rpc::call::{Call, HasTarget, authorize};
use crate::rpc::context::Context;
use crate::transport::Disconnect;

/// Receives an object. The work goes on in a task of its own: a caller that leaves ends its stream,
/// and what that means is decided there.
pub(super) async fn put_object(
    context: &Arc<Context>,
    extensions: Extensions,
    parts: Streaming<v1::PutObjectRequest>,
) -> Result<v1::PutObjectResponse, ApiError> {
    let disconnect = extensions.get::<Disconnect>().cloned().unwrap_or_default();
    let standing = extensions.get::<Standing>().cloned().unwrap_or_default();
    let mut parts =
        Parts { parts, disconnect, standing: standing.clone(), idle: context.limits.idle_timeout };
    let header = match parts.next().await? {
        Some(Part::Header(header)) => header,
        Some(Part::Chunk(_)) | None => {
            return Err(ApiError::invalid(
                "header",
                "",
                "the first message of the stream is the header",
            ));
        }
    };

    let call = authorize(context, &extensions, header.target())?;
    let work = context.tasks.spawn(receive(call, header, parts));

    // The work notices by itself, at the latest before it makes the bytes an object.
    standing.hold(work).await?.unwrap_or(Err(ApiError::Broken))
}

/// The caller's side of an upload.
struct Parts {
    parts: Streaming<v1::PutObjectRequest>,
    disconnect: Disconnect,
    standing: Standing,
    idle: Duration,
}

impl Parts {
    /// The next part; `None` when the caller has closed its side in order.
    async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        match self.standing.hold(tokio::time::timeout(self.idle, self.parts.message())).await? {
            Err(_) => Err(ApiError::Idle { seconds: self.idle.as_secs() }),
            Ok(Err(status)) => Err(ApiError::CutOff { message: status.message().to_owned() }),
            Ok(Ok(None)) if self.disconnect.happened() => {
                Err(ApiError::CutOff { message: "the caller left".to_owned() })
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(message))) => match message.part {
                Some(part) => Ok(Some(part)),
                None => Err(ApiError::invalid("part", "", "one of `header` and `chunk` is set")),
            },
        }
    }
}

async fn receive(
    call: Call,
    header: v1::PutObjectHeader,
    parts: Parts,
) -> Result<v1::PutObjectResponse, ApiError> {
    let scope = convert::object_scope(&header.namespace, &header.pipeline, header.run)?;
    let key = key(&header.key)?;
    let limit_bytes = call.limits.object_max_bytes;
    if let Some(at_least_bytes) = header.size_bytes.filter(|declared| *declared > limit_bytes) {
        return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes });
    }

    call.db.pipeline_get(&scope.namespace, &scope.pipeline).await?;
    if let Some(run) = scope.run {
        let (namespace, pipeline) = (scope.namespace.clone(), scope.pipeline.clone());
        call.db.run_get(&RunKey { namespace, pipeline, run }).await?;
    }

    if header.if_absent && call.db.object_get(&scope, &key).await.is_ok() {
        return Err(ApiError::AlreadyExists { what: Resource::Object, key: key.to_string() });
    }

    call.disk.check()?;
    let quota =
        call.db.quota_get(&scope.namespace, QuotaKind::ObjectBytes, Timestamp::now()).await?;
    let mut share = Share::new(&call.arriving, &scope.namespace, quota);
    share.grow_to(header.size_bytes.unwrap_or(0))?;

    let location = layout::object_location(&scope, &key);
    let arriving = Arc::new(Mutex::new(Arriving::new(&call, header.size_bytes, share)));
    let stored =
        call.objects.put(&location, body(parts, arriving.clone()), PutOptions::default()).await;
    let (size_bytes, sha256) = match (Arriving::end(&arriving), stored) {
        (Err(problem), _) => {
            // The store dropped it with the stream's error; a store that did not must not keep it.
            forget(&call, &location).await;
            return Err(problem);
        }
        (Ok(_), Err(error)) => return Err(error.into()),
        (Ok(arrived), Ok(_)) => arrived,
    };

    if let Some(loss) = call.standing.loss() {
        forget(&call, &location).await;
        return Err(loss);
    }

    let keep = scope.run.is_none().then_some(call.limits.pipeline_objects);
    let record =
        ObjectRecord { scope, key, location, size_bytes, sha256, created_at: Timestamp::now() };

    commit(&call, record, ObjectPut { if_absent: header.if_absent, keep }).await
}

/// Makes the bytes an object, then deletes those that are none any more.
async fn commit(
    call: &Call,
    record: ObjectRecord,
    put: ObjectPut,
) -> Result<v1::PutObjectResponse, ApiError> {
    let outcome = match call.db.object_put_record(&record, put, &call.identity.actor()).await {
        Ok(outcome) => outcome,
        Err(error) => {
            // Only when it is sure that no record names them.
            if matches!(
                error,
                DbError::NotFound { .. } | DbError::AlreadyExists { .. } | DbError::Quota(_)
            ) {
                forget(call, &record.location).await;
            }
            return Err(error.into());
        }
    };

    for old in outcome.replaced.iter().chain(&outcome.evicted) {
        forget(call, &old.location).await;
    }

    let evicted_keys = outcome.evicted.iter().map(|old| old.key.to_string()).collect();
    Ok(v1::PutObjectResponse { object: Some(convert::object(&record)), evicted_keys })
}

/// What has arrived so far, and what went wrong.
struct Arriving {
    hash: Sha256,
    size_bytes: u64,
    declared_bytes: Option<u64>,
    limit_bytes: u64,
    pace: Pace,
    context: Arc<Context>,
    /// Counts in the namespace's quota until the object is recorded.
    share: Share,
    problem: Option<ApiError>,
}

/// How fast an upload has to be: one byte per second would hold a place in the server for ever.
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
    fn new(call: &Call, declared_bytes: Option<u64>, share: Share) -> Self {
        let (grace, rate) = (call.limits.idle_timeout, call.limits.upload_min_rate);
        Self {
            hash: Sha256::new(),
            size_bytes: 0,
            declared_bytes,
            limit_bytes: call.limits.object_max_bytes,
            pace: Pace { began: Instant::now(), grace, rate },
            context: call.context(),
            share,
            problem: None,
        }
    }

    /// The next bytes for the store; `None` at the end.
    fn take(&mut self, part: Option<Part>) -> Result<Option<Bytes>, ApiError> {
        match part {
            Some(Part::Chunk(chunk)) => {
                self.size_bytes += chunk.len() as u64;
                if self.size_bytes > self.limit_bytes {
                    let (limit_bytes, at_least_bytes) = (self.limit_bytes, self.size_bytes);
                    return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes });
                }

                self.pace.check(self.size_bytes)?;
                self.context.disk.check()?;
                self.share.grow_to(self.size_bytes)?;
                self.hash.update(&chunk);

                Ok(Some(chunk))
            }
            Some(Part::Header(_)) => {
                Err(ApiError::invalid("header", "", "only the first message is a header"))
            }
            None => match self.declared_bytes {
                Some(declared) if declared != self.size_bytes => {
                    let rule = format!("{} bytes arrived", self.size_bytes);
                    Err(ApiError::invalid("header.size_bytes", declared.to_string(), rule))
                }
                _ => Ok(None),
            },
        }
    }

    /// Size and hash of the whole object, or why it is not whole.
    fn end(shared: &Mutex<Self>) -> Result<(u64, String), ApiError> {
        let mut arriving = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match arriving.problem.take() {
            Some(problem) => Err(problem),
            None => Ok((arriving.size_bytes, hex(&arriving.hash.clone().finalize()))),
        }
    }
}

/// The bytes as the object store takes them. The store sees only that its stream broke; why is kept
/// beside it.
fn body(parts: Parts, arriving: Arc<Mutex<Arriving>>) -> ByteStream {
    let broken = || BackendError::new(ErrorKind::Invalid, "the upload ended early");
    let chunks = stream::try_unfold((parts, arriving), move |(mut parts, arriving)| async move {
        let part = parts.next().await;
        let mut state = arriving.lock().unwrap_or_else(PoisonError::into_inner);
        match part.and_then(|part| state.take(part)) {
            Ok(Some(chunk)) => {
                drop(state);
                Ok(Some((chunk, (parts, arriving))))
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
