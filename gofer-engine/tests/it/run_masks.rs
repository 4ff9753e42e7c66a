//! Values that a run masks while it runs.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gofer_core::object_store::ListPage;
use gofer_core::run::{LogState, TaskState};
use gofer_core::scheduler::LogCursor;
use gofer_core::secret_store::SecretStore;
use gofer_core::{ExecutionId, RunKey};
use gofer_engine::{Engine, EngineConfig, EngineError};
use secrecy::SecretString;

use crate::engine::{House, first, read, steps};
use crate::support::{id, pipeline};

async fn mask(engine: &Engine, run: &RunKey, value: &str) -> Result<(), EngineError> {
    engine.mask_value(run, &SecretString::from(value), format!("run:{run}")).await
}

/// A task that prints the value, waits, and prints it again, in Base64, too.
async fn waiting(house: &House, engine: &Engine) -> RunKey {
    let lines = [
        "print before zebra-stripes",
        "wait gate",
        "print after zebra-stripes emVicmEtc3RyaXBlcw==",
    ];
    house.register(pipeline(vec![steps("a", &[], &lines)]));
    let run = house.start(engine, &[]).await.key;
    house
        .until(&run, "running", |snapshot| snapshot.tasks[&id("a")].state == TaskState::Running)
        .await;
    run
}

fn config(server_id: &str) -> EngineConfig {
    EngineConfig { server_id: server_id.to_owned(), ..EngineConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn a_value_is_masked_from_when_it_was_added_and_in_all_of_the_archive() {
    let house = House::new();
    let engine = house.engine().await;
    let run = waiting(&house, &engine).await;
    let log = first(&run, "a");
    let mut followed = engine.logs(&log, LogCursor::default(), true).await.unwrap();
    let line = followed.next().await.unwrap().unwrap();

    assert_eq!(&line.data[..], b"before zebra-stripes\n", "nobody has said that it is one");

    for _ in 0..2 {
        mask(&engine, &run, "zebra-stripes").await.unwrap();
    }

    assert_eq!(
        read(&engine, &log, 0, false).await.unwrap(),
        "before ***\n",
        "who begins now sees it nowhere"
    );
    house.scheduler.release("gate");

    let rest: Vec<_> = followed.map(|chunk| chunk.unwrap().data).collect().await;
    assert_eq!(rest.concat(), b"after *** ***\n", "who has begun before does not see it again");

    house.complete(&run).await;
    house.log_becomes(&log, LogState::Archived).await;
    assert_eq!(read(&engine, &log, 0, false).await.unwrap(), "before ***\nafter *** ***\n");
    let refused = mask(&engine, &run, "too late").await;
    assert!(matches!(refused, Err(EngineError::NotFound { .. })), "{refused:?}");
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_added_value_outlives_the_server_and_is_deleted_when_nothing_is_left_to_mask() {
    let house = House::new();
    let engine = house.engine().await;
    let run = waiting(&house, &engine).await;
    mask(&engine, &run, "zebra-stripes").await.unwrap();
    engine.shutdown().await;

    let engine = house.engine().await;
    let log = first(&run, "a");
    assert_eq!(read(&engine, &log, 0, false).await.unwrap(), "before ***\n");
    house.scheduler.release("gate");
    house.complete(&run).await;
    house.log_becomes(&log, LogState::Archived).await;
    assert_eq!(read(&engine, &log, 0, false).await.unwrap(), "before ***\nafter *** ***\n");

    let page = || ListPage { after: None, limit: 10 };
    let stored =
        async || house.secrets.list("internal/run-masks/", page()).await.unwrap().paths.len();
    assert_eq!(stored().await, 1, "retention comes from time to time");
    tokio::time::sleep(Duration::from_secs(1_200)).await;
    assert_eq!(stored().await, 0);
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_one_server_is_told_every_reader_on_another_masks() {
    let house = House::new();
    let told = house.engine_with(config("told")).await;
    let run = waiting(&house, &told).await;
    let reading = house.engine_with(config("reading")).await;
    let log: ExecutionId = first(&run, "a");
    let mut followed = reading.logs(&log, LogCursor::default(), true).await.unwrap();

    assert_eq!(&followed.next().await.unwrap().unwrap().data[..], b"before zebra-stripes\n");

    mask(&told, &run, "zebra-stripes").await.unwrap();
    assert_eq!(read(&reading, &log, 0, false).await.unwrap(), "before ***\n");

    // The hint is on its way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    house.scheduler.release("gate");
    let rest: Vec<_> = followed.map(|chunk| chunk.unwrap().data).collect().await;
    assert_eq!(rest.concat(), b"after *** ***\n");
    house.complete(&run).await;
    told.shutdown().await;
    reading.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_that_cannot_be_masked_is_not_shown() {
    use gofer_conformance::{Faults, Faulty};

    let house = House::new();
    let secrets: Arc<dyn SecretStore> = house.secrets.clone();
    let faulty = Arc::new(Faulty::new(secrets, 1, Faults::default()));
    let backends = gofer_engine::Backends { secrets: faulty.clone(), ..house.backends() };
    let engine =
        Engine::start(house.journal.clone(), backends, EngineConfig::default()).await.unwrap();
    let run = waiting(&house, &engine).await;
    let mut followed = engine.logs(&first(&run, "a"), LogCursor::default(), true).await.unwrap();

    followed.next().await.unwrap().unwrap();

    mask(&engine, &run, "zebra-stripes").await.unwrap();
    faulty.set_faults(Faults { before: 1.0, ..Faults::default() });
    house.scheduler.release("gate");
    let rest: Vec<_> = followed.collect().await;
    assert!(rest.iter().all(Result::is_err) && !rest.is_empty(), "{rest:?}");
    faulty.set_faults(Faults::default());
    house.complete(&run).await;
    engine.shutdown().await;
}
