//! Starting, serving and ending.
//!
//! ```text
//! Server::start ─▶ files (directory) ─▶ bind ─▶ Db ─▶ compose (backends) ─▶ bootstrap (code)
//!      │
//!      └▶ engine ─▶ Context ─▶ own_token ─▶ listen ─▶ stack ─▶ transport
//!                                                       │
//!                                     health, reflection, auth, intake, services
//! Server::shutdown ─▶ stop ─▶ calls end ─▶ engine ─▶ Db
//! check: the same steps, without listening and without a run
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use gofer_core::Timestamp;
use gofer_core::entity::TokenKind;
use gofer_core::journal::Leases;
use gofer_core::scheduler::Scheduler;
use gofer_db::{Db, DbError};
use gofer_engine::{Backends, Engine, EngineConfig, EngineMetrics, run_token_hash};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpSocket;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::address::api_addr;
use self::own_token::OwnToken;
use crate::auth::token::new_token;
use crate::auth::{Authenticator, Provenance, Standings, WorkloadTokens};
use crate::compose::{self, Launcher};
use crate::config::{Access, ServerConfig};
use crate::files::{Reload, Reloads, make_data_dir};
use crate::metrics::{Exposition, ServerMetrics};
use crate::operations::disk::FreeDisk;
use crate::operations::health::{Health, Products};
use crate::operations::objects::UploadRoom;
use crate::rpc::context::Context;
use crate::transport::{self, Certificates};

mod address;
mod bootstrap;
mod check;
mod error;
mod measure;
mod metrics;
mod own_token;
mod stack;

pub use self::bootstrap::reset_bootstrap;
pub use self::check::{CheckLine, check, rotate_secrets_key};
pub use self::error::ServerError;

/// Connections that may wait to be taken.
const ACCEPT_BACKLOG: u32 = 1024;

/// A running server.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    management_token: Option<SecretString>,
    own_token: Option<OwnToken>,
    context: Arc<Context>,
    serving: JoinHandle<()>,
    reloads: Arc<Reloads>,
}

/// What a server is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Calls at work, streams included.
    pub calls: usize,
    /// Runs this server drives.
    pub active_runs: usize,
    /// Executions in flight.
    pub executions: usize,
}

impl Server {
    /// Connects everything, resumes what was running and begins to serve.
    ///
    /// # Errors
    /// [`ServerError`]; what was started is ended again.
    pub async fn start(config: ServerConfig, launcher: Launcher) -> Result<Self, ServerError> {
        config.validate()?;
        for file in &config.exposed_files {
            tracing::warn!("{file}");
        }

        make_data_dir(&config)?;
        let certificates = Certificates::load(&config.server.tls)?.map(Arc::new);

        // Tasks get the limits that this process was started with, not those that it gives itself.
        compose::note_limits();
        transport::raise_open_files();

        // Before the database: a server that cannot listen should not take over runs. Connections
        // are refused until everything is there, the token for them included.
        let wanted = config.server.listen;
        let listen_error = |source| ServerError::Listen { addr: wanted, source };
        let socket = bind(wanted).map_err(listen_error)?;
        let addr = socket.local_addr().map_err(listen_error)?;
        let db = Db::connect(config.resolved_database()).await.map_err(ServerError::Database)?;

        match Self::start_on(&config, launcher, socket, addr, &db, certificates).await {
            Ok(server) => Ok(server),
            Err(error) => {
                db.close().await;
                Err(error)
            }
        }
    }

    async fn start_on(
        config: &ServerConfig,
        launcher: Launcher,
        socket: TcpSocket,
        addr: SocketAddr,
        db: &Db,
        certificates: Option<Arc<Certificates>>,
    ) -> Result<Self, ServerError> {
        let backends = connect(config, launcher, db).await?;
        let management_token = match config.server.ephemeral {
            true => Some(ephemeral_token(db).await.map_err(ServerError::Database)?),
            false => None,
        };

        let bootstrap_file =
            bootstrap::prepare(config, &api_addr(addr, config.serves_tls()), db).await?;
        let server_id = format!("{:016x}", rand::random::<u64>());
        let engine = start_engine(config, addr, &server_id, db, backends.clone()).await?;
        let boundary = compose::boundary(config, &*backends.scheduler);
        boundary.tell(db).await.map_err(ServerError::Database)?;

        let scheduler = backends.scheduler.clone();
        let context = Arc::new(Context {
            boundary,
            token_turn: Mutex::default(),
            db: db.clone(),
            engine: engine.clone(),
            health: Health::new(db.clone(), &backends, products(config)),
            scheduler: backends.scheduler,
            objects: backends.objects,
            secrets: backends.secrets,
            limits: config.limits.clone(),
            exec_sessions: Arc::new(Semaphore::new(config.limits.exec_sessions)),
            upload_room: UploadRoom {
                disk: Arc::new(FreeDisk::new(
                    compose::local_disks(config),
                    config.limits.free_disk_min,
                )),
                arriving: Arc::default(),
            },
            dev_mode: config.access() == Access::OwnToken,
            bootstrap_file,
            standings: Standings::default(),
            metrics: ServerMetrics::default(),
            server_id: server_id.clone(),
            started_at: Timestamp::now(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });

        let served = serve(config, context.clone(), scheduler, socket, addr, certificates).await;
        let Served { metrics_addr, own_token, serving, reloads } = match served {
            Ok(served) => served,
            Err(error) => {
                context.stop.cancel();
                engine.shutdown().await;
                return Err(error);
            }
        };

        let (stop, reloading) = (context.stop.clone(), reloads.clone());
        tokio::spawn(async move { stop.run_until_cancelled_owned(reloading.run()).await });
        let server =
            Self { addr, metrics_addr, management_token, own_token, context, serving, reloads };
        if let Err(error) = db.server_started(&server_id, crate::VERSION, Timestamp::now()).await {
            server.shutdown().await?;
            return Err(ServerError::Database(error));
        }

        tracing::info!(%addr, access = ?config.access(), tls = config.serves_tls(), "serving");
        Ok(server)
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where its metrics are, with the real port, if they are anywhere.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// The token of an ephemeral server, see [`ServerConfig::ephemeral`].
    #[must_use]
    pub fn management_token(&self) -> Option<&SecretString> {
        self.management_token.as_ref()
    }

    /// The token that it has made for its user on this machine; `None` where tokens come from the
    /// database alone.
    #[must_use]
    pub fn own_token(&self) -> Option<&SecretString> {
        self.own_token.as_ref().map(OwnToken::secret)
    }

    /// What it is busy with.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let stats = self.context.engine.stats();
        Activity {
            calls: self.context.tasks.len(),
            active_runs: stats.active_runs,
            executions: stats.executions,
        }
    }

    /// Reads again what can be read again while it serves: the certificate. What is wrong with it
    /// is in the log, and the old one stays in use.
    pub fn reload(&self) -> impl Fn() + Send + use<> {
        let reloads = self.reloads.clone();
        move || reloads.request()
    }

    /// Serves until `shutdown` is ready, then ends in an orderly way. Executions go on.
    ///
    /// # Errors
    /// [`ServerError::Serving`] when serving failed before that.
    pub async fn run_until(
        mut self,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        tokio::select! {
            () = shutdown => self.shutdown().await,
            ended = &mut self.serving => {
                self.rest().await;
                served(ended)
            }
        }
    }

    /// Ends in an orderly way: refuses new calls, ends streams, lets the other calls finish for as
    /// long as `limits.shutdown_grace` says, gives up its runs and the database. Executions go on.
    ///
    /// # Errors
    /// [`ServerError::Serving`] when serving had failed.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        self.context.stop.cancel();
        let ended =
            match tokio::time::timeout(self.context.limits.shutdown_grace, &mut self.serving).await
            {
                Ok(ended) => served(ended),
                Err(_) => {
                    tracing::warn!("some calls did not end in time; they are cut off");
                    self.serving.abort();
                    Ok(())
                }
            };
        self.rest().await;
        ended
    }

    async fn rest(&self) {
        self.context.stop.cancel();
        self.context.tasks.close();
        if tokio::time::timeout(self.context.limits.shutdown_grace, self.context.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some calls did not come to rest in time");
        }
        self.context.engine.shutdown().await;
        self.context.db.close().await;
    }
}

impl Drop for Server {
    /// A server that is dropped instead of shut down serves no longer; its runs go on when their
    /// leases run out.
    fn drop(&mut self) {
        self.context.stop.cancel();
        self.serving.abort();
    }
}

/// Takes the address, without taking connections.
fn bind(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// What serves, and what goes with it.
struct Served {
    metrics_addr: Option<SocketAddr>,
    own_token: Option<OwnToken>,
    serving: JoinHandle<()>,
    reloads: Arc<Reloads>,
}

/// Begins to serve. A caller that is let in finds the server's own token in its file, and none of a
/// server before.
async fn serve(
    config: &ServerConfig,
    context: Arc<Context>,
    scheduler: Arc<dyn Scheduler>,
    socket: TcpSocket,
    addr: SocketAddr,
    certificates: Option<Arc<Certificates>>,
) -> Result<Served, ServerError> {
    let exposition = Exposition::new(&context.metrics, &context.engine, &context.db);
    let (section, stop) = (&config.server.metrics, context.stop.clone());
    let metrics = metrics::serve(section, exposition, certificates.clone(), stop).await?;

    let (data_dir, links) = (config.data_dir(), config.server.links_dir.as_deref());
    let own_token = match config.access() {
        Access::OwnToken => {
            Some(OwnToken::make(&data_dir, &api_addr(addr, config.serves_tls()), links)?)
        }
        Access::Tokens | Access::Anybody => None,
    };

    let authenticator = Arc::new(Authenticator {
        db: context.db.clone(),
        scheduler,
        workload_tokens: WorkloadTokens::default(),
        provenance: Provenance::new(config, addr.ip().is_loopback()),
        access: config.access(),
        own_token: own_token.as_ref().map(OwnToken::hash),
    });

    let listener =
        socket.listen(ACCEPT_BACKLOG).map_err(|source| ServerError::Listen { addr, source })?;
    watch_standings(context.clone());
    let serving =
        stack::serve(config, context, authenticator, listener, certificates.clone()).await?;

    let certificates = certificates.into_iter().map(|one| one as Arc<dyn Reload>);
    let token = metrics.token.into_iter().map(|token| token as Arc<dyn Reload>);
    let reloads = Arc::new(Reloads::new(certificates.chain(token).collect()));
    Ok(Served { metrics_addr: metrics.addr, own_token, serving, reloads })
}

/// Not one of the tasks that a server is busy with.
fn watch_standings(context: Arc<Context>) {
    tokio::spawn(async move {
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = context.standings.watch(&context.db) => {}
        }
    });
}

fn served(ended: Result<(), tokio::task::JoinError>) -> Result<(), ServerError> {
    match ended {
        Err(error) if error.is_panic() => Err(ServerError::Serving(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn connect(
    config: &ServerConfig,
    launcher: Launcher,
    db: &Db,
) -> Result<Backends, ServerError> {
    let problem = |what| move |source| ServerError::Backend { what, source };
    Ok(Backends {
        objects: compose::objects(config).await.map_err(problem("object store"))?,
        secrets: compose::secrets(config, Some(db)).await.map_err(problem("secret store"))?,
        scheduler: compose::scheduler(config, launcher).await.map_err(problem("scheduler"))?,
    })
}

fn products(config: &ServerConfig) -> Products {
    Products {
        scheduler: config.selected_scheduler().product,
        objects: config.selected_objects().product,
        secrets: config.selected_secrets().product,
    }
}

async fn start_engine(
    config: &ServerConfig,
    addr: SocketAddr,
    server_id: &str,
    db: &Db,
    backends: Backends,
) -> Result<Engine, ServerError> {
    let mut engine = EngineConfig {
        api_addr: Some(
            config.engine.api_addr.clone().unwrap_or_else(|| api_addr(addr, config.serves_tls())),
        ),
        lease_ttl: config.engine.lease_ttl,
        max_executions: config.engine.max_executions,
        max_executions_per_pipeline: config.engine.max_executions_per_pipeline,
        max_active_runs: config.engine.max_active_runs,
        log_retention: config.retention.logs,
        run_objects_keep_runs: config.retention.run_objects_keep_runs,
        upload_retention: config.retention.uploads,
        run_retention: config.retention.runs,
        keep_runs: config.retention.keep_runs,
        event_retention: config.retention.events,
        keep_versions: config.retention.keep_pipeline_versions,
        metrics: EngineMetrics::new(config.server.metrics.pipeline_label),
        ..EngineConfig::default()
    };

    if config.shares_database() {
        server_id.clone_into(&mut engine.server_id);
    } else {
        // The database belongs to this process alone, and each of its servers has the same name.
        // Without this, the leases of a server that was killed would hold up its runs until they
        // run out.
        let released = Leases::release(db, &engine.server_id).await;
        released.map_err(|error| ServerError::Engine(error.into()))?;
    }

    Engine::start(Arc::new(db.clone()), backends, engine).await.map_err(ServerError::Engine)
}

/// The id of the token of a server that serves one command.
const EPHEMERAL_TOKEN_ID: &str = "gofer-local";

async fn ephemeral_token(db: &Db) -> Result<SecretString, DbError> {
    let (mut token, secret) = new_token(TokenKind::Management, "of this command", "gofer");
    // There is no other, and people read it: events name it as the actor that starts and cancels
    // the run.
    EPHEMERAL_TOKEN_ID.clone_into(&mut token.id);
    db.token_insert(&token, &run_token_hash(secret.expose_secret())).await?;
    Ok(secret)
}
