use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use secrecy::SecretString;

use super::Faulty;
use crate::error::BackendError;
use crate::id::ExecutionId;
use crate::scheduler::{
    ExecRequest, ExecSession, ExecutionSpec, LogChunk, LogCursor, Observation, ReportedEnd,
    Scheduler, SchedulerCapabilities, WatchEvent,
};

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

    async fn exec(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        let session = self.call("exec", self.inner.exec(id, request)).await?;
        Ok(ExecSession { output: self.breaking("exec", session.output), ..session })
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        self.call("remove", self.inner.remove(id)).await
    }

    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        self.call("identify", self.inner.identify(token)).await
    }

    async fn report(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        self.call("report", self.inner.report(token, end)).await
    }

    async fn reported(&self, id: &ExecutionId, end: ReportedEnd) -> Result<(), BackendError> {
        self.call("reported", self.inner.reported(id, end)).await
    }
}
