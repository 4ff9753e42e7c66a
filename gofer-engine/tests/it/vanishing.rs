//! A scheduler that loses a log while it is read: it was removed by somebody who was at the same
//! log, or by the product itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gofer_core::object_store::{ObjectStore, PutOptions};
use gofer_core::run::LogState;
use gofer_core::scheduler::{
    ExecutionSpec, LogChunk, LogCursor, Observation, Scheduler, SchedulerCapabilities, WatchEvent,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use gofer_engine::{Backends, Engine, EngineConfig, layout};

use crate::engine::{House, first, steps};
use crate::support::pipeline;

#[derive(Debug)]
struct Vanishing(Arc<dyn Scheduler>);

#[async_trait]
impl Scheduler for Vanishing {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.0.capabilities()
    }

    async fn check(&self) -> Result<String, BackendError> {
        self.0.check().await
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        self.0.start(id, spec).await
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        self.0.stop(id, grace).await
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        self.0.state(id).await
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        self.0.watch().await
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        let log = self.0.logs(id, from, follow).await?;
        let gone = BackendError::new(ErrorKind::NotFound, "the log was removed");
        Ok(log.take(1).chain(stream::iter([Err(gone)])).boxed())
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        self.0.remove(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_goes_while_it_is_read_is_in_the_archive_or_lost() {
    for is_archived in [true, false] {
        let house = House::new();
        house.register(pipeline(vec![steps("a", &[], &["print hello"])]));
        let scheduler: Arc<dyn Scheduler> = Arc::new(Vanishing(Arc::new(house.scheduler.clone())));
        let backends = Backends { scheduler, ..house.backends() };
        let engine =
            Engine::start(house.journal.clone(), backends, EngineConfig::default()).await.unwrap();
        let run = house.start(&engine, &[]).await.key;
        let log = first(&run, "a");

        if is_archived {
            let archive = stream::iter([Ok("by another server".into())]).boxed();
            house
                .objects
                .put(&layout::log_location(&log), archive, PutOptions::default())
                .await
                .unwrap();
        }

        house.complete(&run).await;
        let becomes = if is_archived { LogState::Archived } else { LogState::Lost };
        house.log_becomes(&log, becomes).await;
        engine.shutdown().await;
    }
}
