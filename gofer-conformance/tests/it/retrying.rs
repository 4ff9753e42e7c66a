//! A caller that repeats what failed retryably. That it passes the suites over a faulty
//! implementation shows that the calls are safe to repeat.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use gofer_core::error::BackendError;
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions,
};
use gofer_core::scheduler::{
    ExecRequest, ExecSession, ExecSupport, ExecutionSpec, LogChunk, LogCursor, Observation,
    ReportedEnd, Scheduler, SchedulerCapabilities, WatchEvent, WorkloadIdentity,
};
use gofer_core::secret_store::{SecretList, SecretStore};
use gofer_core::{ErrorKind, ExecutionId, ObjectKey, SecretPath};
use secrecy::{ExposeSecret, SecretString};

/// Repeats the calls of an `Arc<dyn Trait>`.
#[derive(Debug)]
pub(crate) struct Retrying<T: ?Sized>(pub(crate) Arc<T>);

/// Makes the call until it succeeds or fails for good; whether an attempt before the last one
/// failed.
macro_rules! repeat {
    ($call:expr) => {{
        let mut repeated = false;
        loop {
            match $call.await {
                Err(error) if error.is_retryable() => repeated = true,
                outcome => break (outcome, repeated),
            }
            tokio::task::yield_now().await;
        }
    }};
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Scheduler for Retrying<dyn Scheduler> {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.0.capabilities()
    }

    fn incarnation(&self) -> u64 {
        self.0.incarnation()
    }

    async fn check(&self) -> Result<String, BackendError> {
        repeat!(self.0.check()).0
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        repeat!(self.0.start(id, spec)).0
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        repeat!(self.0.stop(id, grace)).0
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        repeat!(self.0.state(id)).0
    }

    /// The stream may break; that is its contract.
    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        repeat!(self.0.watch()).0
    }

    /// A stream that breaks goes on where it was.
    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        let first = repeat!(self.0.logs(id, from, follow)).0?;
        let (scheduler, id) = (self.0.clone(), id.clone());
        let chunks = stream::unfold((first, from), move |(mut chunks, mut at)| {
            let (scheduler, id) = (scheduler.clone(), id.clone());
            async move {
                loop {
                    match chunks.next().await? {
                        Ok(chunk) => {
                            at.advance(&chunk);
                            return Some((Ok(chunk), (chunks, at)));
                        }
                        Err(error) if error.is_retryable() => {
                            match repeat!(scheduler.logs(&id, at, follow)).0 {
                                Ok(again) => chunks = again,
                                Err(error) => {
                                    return Some((Err(error), (stream::empty().boxed(), at)));
                                }
                            }
                        }
                        Err(error) => return Some((Err(error), (chunks, at))),
                    }
                }
            }
        });

        Ok(chunks.boxed())
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        repeat!(self.0.remove(id)).0
    }

    fn exec(&self) -> Option<&dyn ExecSupport> {
        self.0.exec().map(|_| self as &dyn ExecSupport)
    }

    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        self.0.identities().map(|_| self as &dyn WorkloadIdentity)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ExecSupport for Retrying<dyn Scheduler> {
    async fn open_session(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let exec = self.0.require_exec()?;
        repeat!(exec.open_session(id, request.clone())).0
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl WorkloadIdentity for Retrying<dyn Scheduler> {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        let identities = self.0.require_identities()?;
        repeat!(identities.identify(token)).0
    }

    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let identities = self.0.require_identities()?;
        repeat!(identities.report_end(token, end)).0
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let identities = self.0.require_identities()?;
        repeat!(identities.accept_forwarded_end(id, end)).0
    }
}

impl Retrying<dyn ObjectStore> {
    async fn read(&self, key: &ObjectKey) -> Result<(ObjectMeta, Bytes), BackendError> {
        let ObjectBody { meta, stream } = self.0.get(key).await?;
        let pieces: Vec<Bytes> = stream.try_collect().await?;
        Ok((meta, pieces.concat().into()))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for Retrying<dyn ObjectStore> {
    async fn check(&self) -> Result<String, BackendError> {
        repeat!(self.0.check()).0
    }

    /// Keeps the body to send it again. A key that is taken after a call that may have taken it is
    /// compared: each body of the suite is one caller's only.
    async fn put(
        &self,
        key: &ObjectKey,
        mut body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece?);
        }
        let bytes = bytes.freeze();
        let whole = || stream::iter([Ok(bytes.clone())]).boxed();
        let (outcome, repeated) = repeat!(self.0.put(key, whole(), options));
        match outcome {
            Err(error) if repeated && error.kind == ErrorKind::AlreadyExists => {
                let (meta, stored) = repeat!(self.read(key)).0?;
                if stored == bytes { Ok(meta) } else { Err(error) }
            }
            outcome => outcome,
        }
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        let (meta, bytes) = repeat!(self.read(key)).0?;
        Ok(ObjectBody { meta, stream: stream::iter([Ok(bytes)]).boxed() })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        repeat!(self.0.head(key)).0
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        repeat!(self.0.list(prefix, page.clone())).0
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        repeat!(self.0.delete(key)).0
    }

    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        repeat!(self.0.presign(key, access.clone(), ttl)).0
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl SecretStore for Retrying<dyn SecretStore> {
    async fn check(&self) -> Result<String, BackendError> {
        repeat!(self.0.check()).0
    }

    /// Compares as the object store does.
    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError> {
        let (outcome, repeated) = repeat!(self.0.put(path, value, options));
        match outcome {
            Err(error) if repeated && error.kind == ErrorKind::AlreadyExists => {
                let stored = repeat!(self.0.get(path)).0?;
                if stored.expose_secret() == value.expose_secret() { Ok(()) } else { Err(error) }
            }
            outcome => outcome,
        }
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        repeat!(self.0.get(path)).0
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        repeat!(self.0.list(prefix, page.clone())).0
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        repeat!(self.0.delete(path)).0
    }
}
