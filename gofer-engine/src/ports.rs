//! What every part of the engine may use: the outside world, the time, the limits, and the end.
//! Imports no part. What a part knows beside these is its own, or a handle that its constructor
//! names.

use std::sync::Arc;

use gofer_core::journal::Journal;
use gofer_core::object_store::ObjectStore;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::EngineConfig;
use crate::run_token::RunTokens;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) secrets: Arc<dyn SecretStore>,
    pub(crate) tokens: RunTokens,
    pub(crate) clock: Clock,
    pub(crate) config: EngineConfig,
    pub(crate) shutdown: Shutdown,
}

/// The end of the engine, and the tasks that it waits for.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    requested: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    pub(crate) fn request(&self) {
        self.requested.cancel();
        self.tasks.close();
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Waits until the end is requested.
    pub(crate) async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// A token that the end cancels, too.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.requested.child_token()
    }

    /// Spawns a task that sees to its own end; the engine's waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// Spawns a task that may be dropped at any await once the end is requested.
    pub(crate) fn spawn_until_requested(&self, task: impl Future<Output = ()> + Send + 'static) {
        let requested = self.requested.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = requested.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Waits until every task has ended, once the end is requested.
    pub(crate) async fn tasks_ended(&self) {
        self.tasks.wait().await;
    }
}
