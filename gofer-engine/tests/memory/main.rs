//! What the engine holds of a log does not depend on how long the log is. A binary of its own: the
//! allocator counts for the whole process, so nothing else may run beside.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use gofer_conformance::{MemoryJournal, MemoryObjectStore, MemoryScheduler, MemorySecretStore};
use gofer_core::journal::Logs;
use gofer_core::run::{Initiator, LogState};
use gofer_core::scheduler::{
    ExecutionSpec, LogChunk, LogCursor, LogStream, Observation, Scheduler, SchedulerCapabilities,
    WatchEvent,
};
use gofer_core::{Attempt, BackendError, ExecutionId, NamespaceId, Timestamp};
use gofer_engine::{Backends, Engine, EngineConfig, StartRun};
use peak_alloc::PeakAlloc;

#[path = "../it/support.rs"]
#[expect(dead_code, reason = "shared with the other tests, which need all of it")]
mod support;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
/// What a log of zeros says: it is compressed to a thousandth of a thousandth.
const LOG_BYTES: usize = 1024 * MIB;
/// What the engine may hold meanwhile, with everything else that the test has.
const BOUND_BYTES: usize = 16 * MIB;
const READERS: usize = 8;

/// Runs tasks like the memory scheduler, and gives each a log of zeros.
#[derive(Debug, Clone)]
struct Flood(MemoryScheduler);

#[async_trait]
impl Scheduler for Flood {
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
        // For its errors.
        drop(self.0.logs(id, from, follow).await?);
        let data = Bytes::from_static(&[0; CHUNK_BYTES]);
        let chunks = (0..LOG_BYTES as u64).step_by(CHUNK_BYTES);
        let chunks = chunks.map(move |offset| {
            let data = data.clone();
            Ok(LogChunk { stream: LogStream::Stdout, offset, data, at: Some(Timestamp(1)) })
        });
        Ok(stream::iter(chunks).boxed())
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        self.0.remove(id).await
    }
}

/// Reads the log to its end and counts its bytes.
async fn length(engine: &Engine, id: &ExecutionId) -> usize {
    let chunks = engine.logs(id, LogCursor::default(), false).await.unwrap();
    chunks.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.data.len()) }).await.unwrap()
}

/// What was held at most since the last call, beyond what is held all the time.
fn peak(before: usize) -> usize {
    let peak = MEMORY.peak_usage() - before;
    MEMORY.reset_peak_usage();
    peak
}

#[tokio::test(start_paused = true)]
async fn a_log_of_a_gibibyte_takes_no_more_memory_than_a_short_one() {
    let journal = Arc::new(MemoryJournal::new());
    let objects = Arc::new(MemoryObjectStore::new());
    let backends = Backends {
        scheduler: Arc::new(Flood(MemoryScheduler::new())),
        objects: objects.clone(),
        secrets: Arc::new(MemorySecretStore::new()),
    };

    let engine = Engine::start(journal.clone(), backends, EngineConfig::default()).await.unwrap();
    let namespace = NamespaceId::new("default").unwrap();
    journal.add_pipeline(&namespace, support::pipeline(vec![support::task("a", &[])]), true);
    let before = MEMORY.current_usage();
    peak(before);

    let request = StartRun {
        namespace,
        pipeline: "p".parse().unwrap(),
        version: None,
        variables: Default::default(),
        initiator: Initiator::Token("ann".to_owned()),
        idempotency_key: None,
    };

    let run = engine.start_run(request).await.unwrap().key;
    let id = ExecutionId { run, task: support::id("a"), attempt: Attempt::FIRST };
    while journal.log_state(&id).await.unwrap() != Some(LogState::Archived) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let archiving = peak(before);
    assert!(archiving < BOUND_BYTES, "{archiving} bytes for writing the archive");

    assert_eq!(length(&engine, &id).await, LOG_BYTES);
    let one = peak(before);
    assert!(one < BOUND_BYTES, "{one} bytes for one reader");

    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(engine.logs(&id, LogCursor::default(), false).await.unwrap());
    }

    // Side by side, none of them to its end: they hold what they hold after the first chunks.
    for _ in 0..100 {
        for reader in &mut readers {
            assert_eq!(reader.try_next().await.unwrap().unwrap().data.len(), CHUNK_BYTES);
        }
    }

    let many = peak(before);
    assert!(many < BOUND_BYTES, "{many} bytes for {READERS} readers");
    drop(readers);

    // To a place near the end without what is before it.
    let from = LogCursor { stdout: LOG_BYTES as u64 - 1, stderr: 0 };
    let rest: Vec<_> = engine.logs(&id, from, false).await.unwrap().try_collect().await.unwrap();
    assert_eq!(rest.iter().map(|chunk| chunk.data.len()).sum::<usize>(), 1);
    let skipping = peak(before);
    assert!(skipping < BOUND_BYTES, "{skipping} bytes for a reader that begins near the end");
    println!(
        "archiving {archiving}, one reader {one}, {READERS} readers {many}, skipping {skipping} \
         bytes"
    );
    engine.shutdown().await;
}
