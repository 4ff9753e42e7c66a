//! What every handler works with.

use std::sync::Arc;

use gofer_core::Timestamp;
use gofer_core::object_store::ObjectStore;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;
use gofer_db::Db;
use gofer_engine::Engine;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Standings;
use crate::config::Limits;
use crate::files::CredentialFile;
use crate::metrics::ServerMetrics;
use crate::operations::boundary::Boundary;
use crate::operations::health::Health;
use crate::operations::objects::{Objects, UploadRoom};
use crate::operations::pipelines::Pipelines;
use crate::operations::tokens::Tokens;

/// What every handler works with; one per server.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) db: Db,
    pub(crate) engine: Engine,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) secrets: Arc<dyn SecretStore>,
    pub(crate) health: Health,
    pub(crate) limits: Limits,
    /// What a namespace is worth here.
    pub(crate) boundary: Boundary,
    /// Whose turn it is to make a token that counts.
    pub(crate) token_turn: Mutex<()>,
    /// Turns of commands in tasks: each needs a process and descriptors of this server.
    pub(crate) exec_sessions: Arc<Semaphore>,
    /// The room that uploads share.
    pub(crate) upload_room: UploadRoom,
    /// With a token of its own in place of the database's, on loopback only.
    pub(crate) dev_mode: bool,
    /// The file with the code for the first management token, if this server has written one.
    pub(crate) bootstrap_file: Option<CredentialFile>,
    /// Which callers with an open stream may still have it.
    pub(crate) standings: Standings,
    /// What it counts and measures.
    pub(crate) metrics: ServerMetrics,
    /// Of this process; new at every start.
    pub(crate) server_id: String,
    pub(crate) started_at: Timestamp,
    /// Handlers and streams at work.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server ends: streams end with it.
    pub(crate) stop: CancellationToken,
}

impl Context {
    /// The operations on objects, for this actor.
    pub(crate) fn objects(&self, actor: String) -> Objects<'_> {
        Objects { db: &self.db, store: &*self.objects, limits: &self.limits, actor }
    }

    /// The operations on pipelines, for this actor.
    pub(crate) fn pipelines(&self, actor: String) -> Pipelines<'_> {
        Pipelines {
            db: &self.db,
            objects: &*self.objects,
            secrets: &*self.secrets,
            scheduler: &*self.scheduler,
            actor,
        }
    }

    /// The operations on tokens, for this actor.
    pub(crate) fn tokens(&self, actor: String) -> Tokens<'_> {
        Tokens {
            db: &self.db,
            boundary: self.boundary,
            turn: &self.token_turn,
            bootstrap_file: self.bootstrap_file.as_ref(),
            actor,
        }
    }
}
