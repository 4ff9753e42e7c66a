//! The tables of backends and engine: a selector, and one sub-table per product, which the
//! product's crate owns.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gofer_core::BackendError;
use gofer_db::{DbConfig, Target};
use gofer_scheduler_local::LocalSchedulerConfig;
use gofer_scheduler_nomad::NomadConfig;
use gofer_secrets_local::LocalSecretsConfig;
use gofer_secrets_vault::VaultConfig;
use gofer_store_local::LocalStoreConfig;
use gofer_store_s3::S3Config;
use serde::Deserialize;

use super::ServerConfig;

/// Where tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerBackend {
    /// As processes of this machine.
    #[default]
    Local,
    /// On a Nomad cluster.
    Nomad,
}

/// Where objects and archived logs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectsBackend {
    /// In a directory of this machine.
    #[default]
    Local,
    /// In a bucket of a store that speaks S3.
    S3,
}

/// Where secrets lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretsBackend {
    /// Encrypted, in the database.
    #[default]
    Local,
    /// In HashiCorp Vault or OpenBao.
    Vault,
}

/// `[scheduler]`: where tasks run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerSection {
    /// Which product.
    pub backend: SchedulerBackend,
    /// `[scheduler.local]`; an empty `dir` is `executions` in the data directory.
    pub local: LocalSchedulerConfig,
    /// `[scheduler.nomad]`.
    pub nomad: NomadConfig,
}

/// `[objects]`: where objects and archived logs lie.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectsSection {
    /// Which product.
    pub backend: ObjectsBackend,
    /// `[objects.local]`; without it, `objects` in the data directory.
    pub local: Option<LocalStoreConfig>,
    /// `[objects.s3]`.
    pub s3: S3Config,
}

/// `[secrets]`: where secrets lie.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretsSection {
    /// Which product.
    pub backend: SecretsBackend,
    /// `[secrets.local]`; without it, the key file is `secrets.key` in the data directory.
    pub local: Option<LocalSecretsConfig>,
    /// `[secrets.vault]`.
    pub vault: VaultConfig,
}

/// `[engine]`: how runs are driven.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSection {
    /// Executions of this server handed to the scheduler at once; further ones wait.
    pub max_executions: usize,
    /// The same of one pipeline; `None` is no limit but `max_executions`.
    pub max_executions_per_pipeline: Option<usize>,
    /// Runs this server works on at once; further ones stay pending.
    pub max_active_runs: usize,
    /// How long a run stays this server's without a sign of life.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// Where tasks reach this server, as `GOFER_API_ADDR`; `None` is the address it listens on.
    pub api_addr: Option<String>,
}

/// `[retention]`: what is kept, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSection {
    /// Archived logs are kept this long after their attempt ended.
    #[serde(with = "humantime_serde")]
    pub logs: Duration,
    /// Objects of runs are kept for this many newest runs of each pipeline.
    pub run_objects_keep_runs: u64,
    /// Runs are kept this long after they ended.
    #[serde(with = "humantime_serde")]
    pub runs: Duration,
    /// Runs are kept for this many newest runs of each pipeline.
    pub keep_runs: u64,
    /// Events are kept this long.
    #[serde(with = "humantime_serde")]
    pub events: Duration,
    /// Versions are kept for this many newest versions of each pipeline.
    pub keep_pipeline_versions: u64,
    /// Uploads by URL that are not completed this long after their URL ended are deleted.
    #[serde(with = "humantime_serde")]
    pub uploads: Duration,
}

impl Default for EngineSection {
    fn default() -> Self {
        let engine = gofer_engine::EngineConfig::default();
        Self {
            max_executions: engine.max_executions,
            max_executions_per_pipeline: engine.max_executions_per_pipeline,
            max_active_runs: engine.max_active_runs,
            lease_ttl: engine.lease_ttl,
            api_addr: None,
        }
    }
}

impl Default for RetentionSection {
    fn default() -> Self {
        let engine = gofer_engine::EngineConfig::default();
        Self {
            logs: engine.log_retention,
            run_objects_keep_runs: engine.run_objects_keep_runs,
            runs: engine.run_retention,
            keep_runs: engine.keep_runs,
            events: engine.event_retention,
            keep_pipeline_versions: engine.keep_versions,
            uploads: engine.upload_retention,
        }
    }
}

/// What a configuration says of a backend that it selects.
pub(crate) struct Selected {
    /// The product's name, which is the name of its table.
    pub(crate) product: &'static str,
    /// Whether all servers on one database see the same in it.
    pub(crate) shared: bool,
    /// Checks its settings.
    pub(crate) validate: fn(&ServerConfig) -> Result<(), BackendError>,
}

impl ServerConfig {
    /// The scheduler.
    pub(crate) fn selected_scheduler(&self) -> Selected {
        match self.scheduler.backend {
            SchedulerBackend::Local => Selected {
                product: LocalSchedulerConfig::PRODUCT,
                shared: LocalSchedulerConfig::SHARED,
                validate: |config| config.resolved_scheduler_local().validate(),
            },
            SchedulerBackend::Nomad => Selected {
                product: NomadConfig::PRODUCT,
                shared: NomadConfig::SHARED,
                validate: |config| config.scheduler.nomad.validate(),
            },
        }
    }

    /// The object store.
    pub(crate) fn selected_objects(&self) -> Selected {
        match self.objects.backend {
            ObjectsBackend::Local => Selected {
                product: LocalStoreConfig::PRODUCT,
                shared: LocalStoreConfig::SHARED,
                validate: |config| config.resolved_objects_local().validate(),
            },
            ObjectsBackend::S3 => Selected {
                product: S3Config::PRODUCT,
                shared: S3Config::SHARED,
                validate: |config| config.objects.s3.validate(),
            },
        }
    }

    /// The secret store.
    pub(crate) fn selected_secrets(&self) -> Selected {
        match self.secrets.backend {
            SecretsBackend::Local => Selected {
                product: LocalSecretsConfig::PRODUCT,
                shared: LocalSecretsConfig::SHARED,
                validate: |config| config.resolved_secrets_local().validate(),
            },
            SecretsBackend::Vault => Selected {
                product: VaultConfig::PRODUCT,
                shared: VaultConfig::SHARED,
                validate: |config| config.secrets.vault.validate(),
            },
        }
    }

    /// Whether several servers may use one database: only if each of them sees every execution,
    /// every object and every secret. Processes and files of one machine are its own.
    pub(crate) fn shares_database(&self) -> bool {
        self.selected_scheduler().shared
            && self.selected_objects().shared
            && self.selected_secrets().shared
    }

    /// The database's settings; without an address, a SQLite file in the data directory.
    pub(crate) fn resolved_database(&self) -> DbConfig {
        let mut database = self.database.clone();
        if database.url.is_none() && database.url_file.is_none() {
            database.url = DbConfig::sqlite(self.in_data_dir(Path::new("gofer.db"))).url;
        }
        database.shared = self.shares_database();
        database.quotas = self.quota.clone();
        database
    }

    /// The local scheduler's settings.
    pub(crate) fn resolved_scheduler_local(&self) -> LocalSchedulerConfig {
        let mut local = self.scheduler.local.clone();
        local.free_disk_min = self.limits.free_disk_min;
        if local.dir.as_os_str().is_empty() {
            local.dir = self.in_data_dir(Path::new("executions"));
        }
        local.protected = self.not_for_tasks();
        local
    }

    /// What of this machine is the server's alone: whoever reads or writes one of these is more
    /// than a client.
    fn not_for_tasks(&self) -> Vec<PathBuf> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut paths = vec![self.in_data_dir(Path::new(""))];
        if let Ok(Target::Sqlite(database)) = self.resolved_database().target() {
            // The files that SQLite keeps beside it.
            for suffix in ["", "-wal", "-shm", "-journal", ".lock"] {
                let mut name = absolute(&database).into_os_string();
                name.push(suffix);
                paths.push(name.into());
            }
        }

        if self.objects.backend == ObjectsBackend::Local {
            paths.push(absolute(&self.resolved_objects_local().dir));
        }

        if self.secrets.backend == SecretsBackend::Local {
            paths.push(absolute(&self.resolved_secrets_local().key_file));
        }

        paths.extend(self.secret_files.iter().map(|path| absolute(path)));
        paths
    }

    /// The local object store's settings.
    pub(crate) fn resolved_objects_local(&self) -> LocalStoreConfig {
        let in_data_dir = || LocalStoreConfig::new(self.in_data_dir(Path::new("objects")));
        self.objects.local.clone().unwrap_or_else(in_data_dir)
    }

    /// The local secret store's settings.
    pub(crate) fn resolved_secrets_local(&self) -> LocalSecretsConfig {
        let in_data_dir = || LocalSecretsConfig::new(self.in_data_dir(Path::new("secrets.key")));
        self.secrets.local.clone().unwrap_or_else(in_data_dir)
    }

    /// Absolute, so that a later change of the working directory moves nothing.
    fn in_data_dir(&self, name: &Path) -> PathBuf {
        let dir = self.data_dir();
        std::path::absolute(&dir).unwrap_or(dir).join(name)
    }
}
