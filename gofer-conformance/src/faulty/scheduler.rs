use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::error::BackendError;
use gofer_core::id::ExecutionId;
use gofer_core::scheduler::{
    ExecRequest, ExecSession, ExecSupport, ExecutionSpec, LogChunk, LogCursor, Observation,
    ReportedEnd, Scheduler, SchedulerCapabilities, WatchEvent, WorkloadIdentity,
};
use secrecy::SecretString;

use super::Faulty;

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Scheduler for Faulty<dyn Scheduler> {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.inner.capabilities()
    }

    fn incarnation(&self) -> u64 {
        self.inner.incarnation()
    }

    async fn check(&self) -> Result<String, BackendError> {
        self.call("check", self.inner.check()).await
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        self.call("start", self.inner.start(id, spec)).await
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        self.call("stop", self.inner.stop(id, grace)).await
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        self.call("state", self.inner.state(id)).await
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        let events = self.call("watch", self.inner.watch()).await?;
        Ok(self.breaking("watch", events))
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        let chunks = self.call("logs", self.inner.logs(id, from, follow)).await?;
        Ok(self.breaking("logs", chunks))
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        self.call("remove", self.inner.remove(id)).await
    }

    fn exec(&self) -> Option<&dyn ExecSupport> {
        self.inner.exec().map(|_| self as &dyn ExecSupport)
    }

    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        self.inner.identities().map(|_| self as &dyn WorkloadIdentity)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ExecSupport for Faulty<dyn Scheduler> {
    async fn open_session(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let exec = self.inner.require_exec()?;
        let session = self.call("exec", exec.open_session(id, request)).await?;
        Ok(ExecSession { output: self.breaking("exec", session.output), ..session })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl WorkloadIdentity for Faulty<dyn Scheduler> {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        let identities = self.inner.require_identities()?;
        self.call("identify", identities.identify(token)).await
    }

    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let identities = self.inner.require_identities()?;
        self.call("report_end", identities.report_end(token, end)).await
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let identities = self.inner.require_identities()?;
        self.call("accept_forwarded_end", identities.accept_forwarded_end(id, end)).await
    }
}
