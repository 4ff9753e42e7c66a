//! The only file that names concrete backends.
//!
//! ```text
//! ServerConfig ─▶ scheduler, objects, secrets   one `match` per kind: connect the product
//!              ─▶ boundary, local_disks         what else of the server depends on the product
//!              ─▶ rotate_secrets_key            what one product alone can do
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use gofer_core::BackendError;
use gofer_core::ErrorKind;
use gofer_core::object_store::ObjectStore;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;
use gofer_db::Db;
use gofer_scheduler_local::LocalScheduler;
use gofer_scheduler_nomad::NomadScheduler;
use gofer_secrets_local::LocalSecretStore;
use gofer_secrets_vault::VaultSecretStore;
use gofer_store_local::LocalObjectStore;
use gofer_store_s3::S3ObjectStore;

/// The program of a [`Launcher`] runs the local scheduler's supervisors. With an [`Owner`] they end
/// when that process does.
pub(crate) use gofer_scheduler_local::note_limits;
pub use gofer_scheduler_local::{Owner, close_process, supervisor};

use crate::config::{ObjectsBackend, SchedulerBackend, SecretsBackend, ServerConfig};
use crate::operations::boundary::Boundary;

/// The program and leading arguments that become the supervisor of local executions: the running
/// binary itself and its hidden command.
pub type Launcher = (PathBuf, Vec<String>);

/// Directories of this machine that uploads fill.
pub(crate) fn local_disks(config: &ServerConfig) -> Vec<PathBuf> {
    match config.objects.backend {
        ObjectsBackend::Local => vec![config.resolved_objects_local().dir],
        ObjectsBackend::S3 => Vec::new(),
    }
}

/// The scheduler.
pub(crate) async fn scheduler(
    config: &ServerConfig,
    launcher: Launcher,
) -> Result<Arc<dyn Scheduler>, BackendError> {
    match config.scheduler.backend {
        SchedulerBackend::Local => {
            let (program, args) = launcher;
            let launcher = gofer_scheduler_local::Launcher { program, args };
            Ok(Arc::new(
                LocalScheduler::connect(config.resolved_scheduler_local(), launcher).await?,
            ))
        }
        SchedulerBackend::Nomad => {
            Ok(Arc::new(NomadScheduler::connect(config.scheduler.nomad.clone()).await?))
        }
    }
}

/// What namespaces are worth with this scheduler.
pub(crate) fn boundary(config: &ServerConfig, scheduler: &dyn Scheduler) -> Boundary {
    if scheduler.capabilities().isolates_namespaces {
        return Boundary::Kept;
    }
    match config.scheduler.backend {
        SchedulerBackend::Local if config.scheduler.local.trusted => Boundary::Trusted,
        SchedulerBackend::Local => Boundary::Open {
            ways_out: "give each namespace a user (`scheduler.local.users`), run tasks on Nomad \
                       (`scheduler.backend`), or say that everybody is trusted \
                       (`scheduler.local.trusted = true`)",
            refuses: true,
        },
        // An operator that allows `raw_exec` on a cluster has read what it is.
        SchedulerBackend::Nomad => Boundary::Open {
            ways_out: "set `scheduler.nomad.host_driver = \"exec\"`, or give tasks images",
            refuses: false,
        },
    }
}

/// The object store.
pub(crate) async fn objects(config: &ServerConfig) -> Result<Arc<dyn ObjectStore>, BackendError> {
    match config.objects.backend {
        ObjectsBackend::Local => {
            Ok(Arc::new(LocalObjectStore::connect(config.resolved_objects_local()).await?))
        }
        ObjectsBackend::S3 => {
            Ok(Arc::new(S3ObjectStore::connect(config.objects.s3.clone()).await?))
        }
    }
}

/// The secret store.
pub(crate) async fn secrets(
    config: &ServerConfig,
    db: Option<&Db>,
) -> Result<Arc<dyn SecretStore>, BackendError> {
    match config.secrets.backend {
        SecretsBackend::Local => {
            let missing = || {
                BackendError::new(
                    ErrorKind::Unavailable,
                    "it is in the database, which cannot be used",
                )
            };
            let db = db.ok_or_else(missing)?.clone();
            Ok(Arc::new(LocalSecretStore::connect(config.resolved_secrets_local(), db).await?))
        }
        SecretsBackend::Vault => {
            Ok(Arc::new(VaultSecretStore::connect(config.secrets.vault.clone()).await?))
        }
    }
}

/// Gives the embedded secret store a new key; returns how many values were encrypted again.
pub(crate) async fn rotate_secrets_key(
    config: &ServerConfig,
    db: &Db,
) -> Result<u64, BackendError> {
    match config.secrets.backend {
        SecretsBackend::Local => {
            LocalSecretStore::connect(config.resolved_secrets_local(), db.clone())
                .await?
                .rotate()
                .await
        }
        SecretsBackend::Vault => Err(BackendError::new(
            ErrorKind::Unsupported,
            "`secrets.backend` is `vault`, which keeps its own keys: rotate them there",
        )),
    }
}
