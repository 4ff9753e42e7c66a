//! What the fault tests of operations share.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use gofer_conformance::Faults;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::{NamespaceId, PipelineId, Timestamp};
use gofer_db::{Db, DbConfig, Registration};

/// Calls that fail without effect.
pub(super) const FAILS: Faults =
    Faults { before: 1.0, after: 0.0, stream: 0.0, latency: Duration::ZERO };
/// Calls that take effect, and fail.
pub(super) const LOSES_ITS_ANSWER: Faults =
    Faults { before: 0.0, after: 1.0, stream: 0.0, latency: Duration::ZERO };
/// Calls that are waited for.
pub(super) const TAKES_TIME: Faults =
    Faults { before: 0.0, after: 0.0, stream: 0.0, latency: Duration::from_millis(2) };

/// The outcome of the work, unless it has to wait more often than this; then it is dropped where it
/// waits, as when the server dies there. What it has asked of the database may still happen.
pub(super) async fn die_at<F: Future>(wait: usize, work: F) -> Option<F::Output> {
    let mut work = Box::pin(work);
    let mut left = wait;
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// A database of its own.
pub(super) async fn sqlite(dir: &Path) -> Db {
    Db::connect(DbConfig::sqlite(dir.join("gofer.db"))).await.unwrap()
}

/// Returns when everything that was asked of the database before has happened or never will: it
/// has one writer.
pub(super) async fn settle(db: &Db) {
    db.namespace_update(&namespace(), "", "test", Timestamp::now()).await.unwrap();
}

pub(super) fn namespace() -> NamespaceId {
    NamespaceId::new("default").unwrap()
}

pub(crate) async fn register(db: &Db, name: &str) -> PipelineId {
    let id = PipelineId::new(name).unwrap();
    let spec = PipelineSpec {
        run_variables: Vec::new(),
        name: id.clone(),
        description: String::new(),
        tasks: Vec::new(),
        variables: Default::default(),
        parallelism: None,
        overlap: Default::default(),
        subscriptions: Vec::new(),
        sdk: String::new(),
    };

    let registration = Registration {
        namespace: namespace(),
        spec: Arc::new(spec),
        digest: "d".to_owned(),
        expected_version: None,
    };
    db.pipeline_register(registration, "test", Timestamp::now()).await.unwrap();
    id
}
