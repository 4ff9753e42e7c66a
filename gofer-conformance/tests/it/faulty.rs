//! The memory implementations made to fail, behind a caller that repeats; and what the faults
//! themselves are.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use gofer_conformance::Harness;
use gofer_conformance::scheduler::{SchedulerHarness, Workloads, host_command};
use gofer_conformance::{
    Faults, Faulty, MemoryObjectStore, MemoryScheduler, MemorySecretStore, MemoryWorkloads,
};
use gofer_core::object_store::{ObjectStore, PutOptions};
use gofer_core::scheduler::{ExecutionState, Scheduler};
use gofer_core::secret_store::SecretStore;
use gofer_core::{ObjectKey, SecretPath};
use secrecy::SecretString;

use crate::retrying::Retrying;

/// Every third call fails, half of them after they took effect.
const FAULTS: Faults = Faults { before: 0.2, after: 0.2, stream: 0.01, latency: Duration::ZERO };

struct Over<T: ?Sized>(Arc<T>);

#[async_trait]
impl<T: ?Sized + Send + Sync + 'static> Harness<T> for Over<T> {
    fn backend(&self) -> Arc<T> {
        self.0.clone()
    }

    async fn restart(&mut self) {}
}

async fn objects() -> Over<dyn ObjectStore> {
    let faults = Faults { stream: 0.0002, ..FAULTS };
    let faulty: Arc<dyn ObjectStore> =
        Arc::new(Faulty::<dyn ObjectStore>::new(Arc::new(MemoryObjectStore::new()), 1, faults));
    Over(Arc::new(Retrying(faulty)))
}

async fn secrets() -> Over<dyn SecretStore> {
    let faulty: Arc<dyn SecretStore> =
        Arc::new(Faulty::<dyn SecretStore>::new(Arc::new(MemorySecretStore::new()), 2, FAULTS));
    Over(Arc::new(Retrying(faulty)))
}

struct Executions {
    scheduler: Arc<dyn Scheduler>,
    workloads: MemoryWorkloads,
}

#[async_trait]
impl Harness<dyn Scheduler> for Executions {
    fn backend(&self) -> Arc<dyn Scheduler> {
        self.scheduler.clone()
    }

    async fn restart(&mut self) {}
}

impl SchedulerHarness for Executions {
    fn workloads(&self) -> &dyn Workloads {
        &self.workloads
    }
}

async fn executions() -> Executions {
    let memory = MemoryScheduler::new();
    let faulty: Arc<dyn Scheduler> =
        Arc::new(Faulty::<dyn Scheduler>::new(Arc::new(memory.clone()), 3, FAULTS));
    Executions { scheduler: Arc::new(Retrying(faulty)), workloads: MemoryWorkloads(memory) }
}

mod object_store {
    gofer_conformance::object_store_conformance!(super::objects);
}

mod secret_store {
    gofer_conformance::secret_store_conformance!(super::secrets);
}

mod scheduler {
    gofer_conformance::scheduler_conformance!(super::executions);
}

fn rates(before: f64, after: f64) -> Faults {
    Faults { before, after, ..Faults::default() }
}

#[tokio::test]
async fn a_fault_before_has_no_effect_and_one_after_has() {
    let memory = Arc::new(MemorySecretStore::new());
    let faulty = Faulty::<dyn SecretStore>::new(memory.clone(), 1, rates(1.0, 0.0));
    let path = SecretPath::new("k").unwrap();
    let put = async |value: &str| {
        faulty.put(&path, &SecretString::from(value), PutOptions::default()).await
    };
    assert!(put("lost").await.unwrap_err().is_retryable());
    assert!(memory.get(&path).await.is_err());
    faulty.set_faults(rates(0.0, 1.0));
    assert!(put("stored").await.unwrap_err().is_retryable());
    assert!(memory.get(&path).await.is_ok());
    faulty.set_faults(Faults::default());
    put("stored").await.unwrap();
    assert_eq!(faulty.injected(), 2);
}

#[tokio::test]
async fn a_seed_repeats_its_faults() {
    let play = async |seed| {
        let faulty = Faulty::<dyn SecretStore>::new(
            Arc::new(MemorySecretStore::new()),
            seed,
            rates(0.3, 0.3),
        );
        let mut outcomes = Vec::new();
        for _ in 0..50 {
            outcomes.push(faulty.check().await.map_err(|error| (error.kind, error.message)));
        }
        outcomes
    };
    assert_eq!(play(5).await, play(5).await);
    assert_ne!(play(5).await, play(6).await);
}

#[tokio::test]
async fn a_stream_breaks_with_an_error_and_ends() {
    let memory = Arc::new(MemoryObjectStore::new());
    let key = ObjectKey::new("k").unwrap();
    let body = futures::stream::iter([Ok(vec![0_u8; 1_000_000].into())]).boxed();
    memory.put(&key, body, PutOptions::default()).await.unwrap();
    let faulty =
        Faulty::<dyn ObjectStore>::new(memory, 1, Faults { stream: 0.5, ..Faults::default() });
    let pieces: Vec<_> = faulty.get(&key).await.unwrap().stream.collect().await;
    let (last, others) = pieces.split_last().unwrap();
    assert!(last.is_err() && others.iter().all(Result::is_ok), "{} pieces", pieces.len());
}

#[tokio::test(start_paused = true)]
async fn latency_passes_in_virtual_time() {
    let latency = Duration::from_secs(3_600);
    let faulty = Faulty::<dyn SecretStore>::new(
        Arc::new(MemorySecretStore::new()),
        1,
        Faults { latency, ..Faults::default() },
    );
    let before = tokio::time::Instant::now();
    faulty.check().await.unwrap();
    let took = before.elapsed();
    assert!(Duration::ZERO < took && took <= latency, "{took:?}");
}

/// What a test of the engine does: hold an execution, end it by hand, lose it, all without a moment
/// of real time.
#[tokio::test(start_paused = true)]
async fn the_memory_scheduler_is_driven_by_hand_in_virtual_time() {
    let scheduler = MemoryScheduler::new();
    let id = |attempt: u32| format!("ns/ci/1/build/{attempt}").parse().unwrap();
    let state = async |attempt| scheduler.state(&id(attempt)).await.unwrap().state;
    let exited = ExecutionState::Exited { code: 3, oom: false, signal: None };
    let mut events = scheduler.watch().await.unwrap();

    for attempt in 1..=3 {
        scheduler
            .start(&id(attempt), &host_command(["queue no node", "sleep-ms 3600000", "exit 3"]))
            .await
            .unwrap();
    }

    for _ in 0..3 {
        while !matches!(events.next().await.unwrap().unwrap().state, ExecutionState::Queued { .. })
        {
        }
    }

    scheduler.set_running(&id(1));
    scheduler.finish(&id(2), exited.clone());
    scheduler.lose(&id(3));
    assert_eq!(
        [state(1).await, state(2).await, state(3).await],
        [ExecutionState::Running, exited.clone(), ExecutionState::Lost]
    );
    while events.next().await.unwrap().unwrap().id != id(3) {}
    assert_eq!(
        events.next().await.unwrap().unwrap().state,
        exited,
        "the first attempt's own end, an hour later"
    );
    assert_eq!((scheduler.starts(&id(1)), scheduler.starts(&id(4))), (1, 0));
    scheduler.disconnect_watchers();
    assert!(events.next().await.is_none(), "the stream ends");
}
