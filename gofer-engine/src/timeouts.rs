//! A time limit around every call of a backend: a call that never returns would hold a run for
//! ever.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions,
};
use gofer_core::scheduler::{
    ExecRequest, ExecSession, ExecSupport, ExecutionSpec, LogChunk, LogCursor, Observation,
    ReportedEnd, Scheduler, SchedulerCapabilities, WatchEvent, WorkloadIdentity,
};
use gofer_core::secret_store::{SecretList, SecretStore};
use gofer_core::{BackendError, ErrorKind, ExecutionId, ObjectKey, SecretPath};
use secrecy::SecretString;
use tracing::Instrument as _;

use crate::metrics::EngineMetrics;

/// Longest answer of a call that moves no bulk data.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest transfer of an object into the store; the caller's stream has limits of its own.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3600);

/// A backend with a time limit on every call, and a measurement of it.
#[derive(Debug)]
pub(crate) struct WithTimeout<T: ?Sized> {
    backend: Arc<T>,
    metrics: EngineMetrics,
}

impl<T: ?Sized> WithTimeout<T> {
    pub(crate) fn new(backend: Arc<T>, metrics: &EngineMetrics) -> Self {
        Self { backend, metrics: metrics.clone() }
    }

    /// The answer of a call, within a time. The call is the name of the backend's kind and of the
    /// method.
    async fn within<R>(
        &self,
        limit: Duration,
        (backend, call): (&'static str, &'static str),
        work: impl Future<Output = Result<R, BackendError>>,
    ) -> Result<R, BackendError> {
        let span = tracing::debug_span!("backend_call", backend, call);
        let began = Instant::now();
        let answer = tokio::time::timeout(limit, work.instrument(span)).await;
        let answer = answer.unwrap_or_else(|_| {
            let (kind, call) = (backend.replace('_', " "), call.replace('_', " "));
            let message = format!("`{kind} {call}` got no answer within {} s", limit.as_secs());
            Err(BackendError::new(ErrorKind::Timeout, message))
        });

        self.metrics.backend_answered((backend, call), &answer, began.elapsed());
        answer
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Scheduler for WithTimeout<dyn Scheduler> {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.backend.capabilities()
    }

    fn incarnation(&self) -> u64 {
        self.backend.incarnation()
    }

    async fn check(&self) -> Result<String, BackendError> {
        self.within(CALL_TIMEOUT, ("scheduler", "check"), self.backend.check()).await
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        self.within(CALL_TIMEOUT, ("scheduler", "start"), self.backend.start(id, spec)).await
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        self.within(CALL_TIMEOUT, ("scheduler", "stop"), self.backend.stop(id, grace)).await
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        self.within(CALL_TIMEOUT, ("scheduler", "state"), self.backend.state(id)).await
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        self.within(CALL_TIMEOUT, ("scheduler", "watch"), self.backend.watch()).await
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        self.within(CALL_TIMEOUT, ("scheduler", "logs"), self.backend.logs(id, from, follow)).await
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        self.within(CALL_TIMEOUT, ("scheduler", "remove"), self.backend.remove(id)).await
    }

    fn exec(&self) -> Option<&dyn ExecSupport> {
        self.backend.exec().map(|_| self as &dyn ExecSupport)
    }

    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        self.backend.identities().map(|_| self as &dyn WorkloadIdentity)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ExecSupport for WithTimeout<dyn Scheduler> {
    async fn open_session(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let exec = self.backend.require_exec()?;
        self.within(CALL_TIMEOUT, ("scheduler", "exec"), exec.open_session(id, request)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl WorkloadIdentity for WithTimeout<dyn Scheduler> {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        let identities = self.backend.require_identities()?;
        self.within(CALL_TIMEOUT, ("scheduler", "identify"), identities.identify(token)).await
    }

    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let identities = self.backend.require_identities()?;
        self.within(CALL_TIMEOUT, ("scheduler", "report_end"), identities.report_end(token, end))
            .await
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let identities = self.backend.require_identities()?;
        self.within(
            CALL_TIMEOUT,
            ("scheduler", "accept_forwarded_end"),
            identities.accept_forwarded_end(id, end),
        )
        .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for WithTimeout<dyn ObjectStore> {
    async fn check(&self) -> Result<String, BackendError> {
        self.within(CALL_TIMEOUT, ("object_store", "check"), self.backend.check()).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        self.within(TRANSFER_TIMEOUT, ("object_store", "put"), self.backend.put(key, body, options))
            .await
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        self.within(CALL_TIMEOUT, ("object_store", "get"), self.backend.get(key)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        self.within(CALL_TIMEOUT, ("object_store", "head"), self.backend.head(key)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        self.within(CALL_TIMEOUT, ("object_store", "list"), self.backend.list(prefix, page)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        self.within(CALL_TIMEOUT, ("object_store", "delete"), self.backend.delete(key)).await
    }

    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        self.within(
            CALL_TIMEOUT,
            ("object_store", "presign"),
            self.backend.presign(key, access, ttl),
        )
        .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl SecretStore for WithTimeout<dyn SecretStore> {
    async fn check(&self) -> Result<String, BackendError> {
        self.within(CALL_TIMEOUT, ("secret_store", "check"), self.backend.check()).await
    }

    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError> {
        self.within(CALL_TIMEOUT, ("secret_store", "put"), self.backend.put(path, value, options))
            .await
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        self.within(CALL_TIMEOUT, ("secret_store", "get"), self.backend.get(path)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        self.within(CALL_TIMEOUT, ("secret_store", "list"), self.backend.list(prefix, page)).await
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        self.within(CALL_TIMEOUT, ("secret_store", "delete"), self.backend.delete(path)).await
    }
}
