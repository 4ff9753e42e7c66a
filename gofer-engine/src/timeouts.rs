//! A time limit around every call of a backend: a call that never returns would hold a run for
//! ever.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

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

/// Longest answer of a call that moves no bulk data.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest transfer of an object into the store; the caller's stream has limits of its own.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3600);

/// A backend with a time limit on every call.
#[derive(Debug)]
pub(crate) struct WithTimeout<T: ?Sized>(pub(crate) Arc<T>);

async fn within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(BackendError::new(
            ErrorKind::Timeout,
            format!("`{what}` got no answer within {} s", limit.as_secs()),
        ))
    })
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Scheduler for WithTimeout<dyn Scheduler> {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.0.capabilities()
    }

    fn incarnation(&self) -> u64 {
        self.0.incarnation()
    }

    async fn check(&self) -> Result<String, BackendError> {
        within(CALL_TIMEOUT, "scheduler check", self.0.check()).await
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        within(CALL_TIMEOUT, "scheduler start", self.0.start(id, spec)).await
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        within(CALL_TIMEOUT, "scheduler stop", self.0.stop(id, grace)).await
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        within(CALL_TIMEOUT, "scheduler state", self.0.state(id)).await
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        within(CALL_TIMEOUT, "scheduler watch", self.0.watch()).await
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        within(CALL_TIMEOUT, "scheduler logs", self.0.logs(id, from, follow)).await
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        within(CALL_TIMEOUT, "scheduler remove", self.0.remove(id)).await
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
impl ExecSupport for WithTimeout<dyn Scheduler> {
    async fn open_session(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let exec = self.0.require_exec()?;
        within(CALL_TIMEOUT, "scheduler exec", exec.open_session(id, request)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl WorkloadIdentity for WithTimeout<dyn Scheduler> {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        let identities = self.0.require_identities()?;
        within(CALL_TIMEOUT, "scheduler identify", identities.identify(token)).await
    }

    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let identities = self.0.require_identities()?;
        within(CALL_TIMEOUT, "scheduler report end", identities.report_end(token, end)).await
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let identities = self.0.require_identities()?;
        within(
            CALL_TIMEOUT,
            "scheduler accept forwarded end",
            identities.accept_forwarded_end(id, end),
        )
        .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for WithTimeout<dyn ObjectStore> {
    async fn check(&self) -> Result<String, BackendError> {
        within(CALL_TIMEOUT, "object store check", self.0.check()).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        within(TRANSFER_TIMEOUT, "object store put", self.0.put(key, body, options)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        within(CALL_TIMEOUT, "object store get", self.0.get(key)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        within(CALL_TIMEOUT, "object store head", self.0.head(key)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        within(CALL_TIMEOUT, "object store list", self.0.list(prefix, page)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        within(CALL_TIMEOUT, "object store delete", self.0.delete(key)).await
    }

    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        within(CALL_TIMEOUT, "object store presign", self.0.presign(key, access, ttl)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl SecretStore for WithTimeout<dyn SecretStore> {
    async fn check(&self) -> Result<String, BackendError> {
        within(CALL_TIMEOUT, "secret store check", self.0.check()).await
    }

    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError> {
        within(CALL_TIMEOUT, "secret store put", self.0.put(path, value, options)).await
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        within(CALL_TIMEOUT, "secret store get", self.0.get(path)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        within(CALL_TIMEOUT, "secret store list", self.0.list(prefix, page)).await
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        within(CALL_TIMEOUT, "secret store delete", self.0.delete(path)).await
    }
}
