//! The life of executions as the server sees it: start, settle, report the end.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gofer_core::pipeline::Resources;
use gofer_core::scheduler::{ExecutionSpec, ExecutionState, ExecutionTimes, Observation};
use gofer_core::{BackendError, ErrorKind, ExecutionId, Timestamp};
use rustix::process::{Resource, Rlimit, getrlimit};
use tokio::sync::Notify;

use crate::accounts::Account;
use crate::cgroup::CgroupBase;
use crate::config::{Launcher, LocalSchedulerConfig};
use crate::confinement::{Confinement, Limit, User};
use crate::disk::{self, Settle, Settled};
use crate::error::{blocking, io_error};
use crate::hardening::limits_at_start;
use crate::launch_dir::{self, Begun};
use crate::layout::{Layout, LiveName};
use crate::live;
use crate::policy::Policy;
use crate::record;
use crate::spares::Spares;
use crate::spec::{self, BaseEnv, Home, Prepared};
use crate::table::{Claimed, Phase, Table, started};
use crate::users::Users;
use crate::watcher::{Happened, Watcher};
use crate::wire::{Launch, MAX_BODY_BYTES, Outcome, Reply};
use crate::zygote::{Launched, Zygote};

/// How often a launch is tried when the zygote dies under it.
const LAUNCH_TRIES: u32 = 4;
/// How long to wait for another server to let go of the directory: a restarted one overlaps with
/// its predecessor.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_RETRY_PAUSE: Duration = Duration::from_millis(25);

/// Held by the one server that uses the directory.
#[derive(Debug)]
pub(crate) struct ServerLock(#[expect(dead_code, reason = "held for its lock")] OwnedFd);

/// Everything a scheduler consists of.
#[derive(Debug)]
pub(crate) struct Executions {
    pub(crate) config: LocalSchedulerConfig,
    pub(crate) layout: Layout,
    pub(crate) table: Table,
    pub(crate) zygote: Zygote,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) cgroup: Option<CgroupBase>,
    /// Held while a stop request is compared and written, so that of two the shorter one stays.
    pub(crate) stopping: Mutex<()>,
    pub(crate) spares: Spares,
    pub(crate) policy: Policy,
    pub(crate) users: Option<Users>,
    base_env: BaseEnv,
    /// The kernel's boot: what had not ended is forgotten by the next.
    pub(crate) incarnation: u64,
}

/// Whether a launch is decided.
enum Decided {
    Yes,
    /// Nothing was started; try again.
    No,
}

impl Executions {
    /// Opens the directory and takes up what runs there.
    pub(crate) async fn open(
        config: LocalSchedulerConfig,
        launcher: Launcher,
    ) -> Result<(Self, ServerLock), BackendError> {
        let layout = Layout::new(config.dir.clone());
        let policy = Policy::decide(&config)?;
        let lock = lock_server(&layout, config.users.is_some()).await?;
        let users =
            config.users.as_ref().map(|users| Users::open(users, &config.dir)).transpose()?;

        // One command's own tasks end with it in any case, so they get a cgroup for limits alone.
        let for_limits = config.owner.is_some();
        let cgroup =
            CgroupBase::open(&config.cgroup, &config.dir, config.max_processes, for_limits)?;
        let failed = |error| io_error("the local scheduler cannot watch its directory", error);

        // Before looking at what lives, so that no end falls between.
        let watcher = Arc::new(Watcher::open(&layout.live_dir()).map_err(failed)?);
        let table = Table::new();
        let recovered = {
            let (layout, cgroup) = (layout.clone(), cgroup.clone());
            blocking(move || {
                recover(&layout, cgroup.as_ref())
                    .map_err(|error| io_error("the running executions cannot be read", error))
            })
        };

        for (id, live) in recovered.await? {
            table.adopt(id, live);
        }

        let incarnation =
            disk::boot().map_err(|error| io_error("the kernel's boot id cannot be read", error))?;
        let base_env = BaseEnv::capture(&config);
        let zygote = Zygote::new(launcher, config.owner.clone());
        let executions = Self {
            config,
            layout,
            table,
            zygote,
            watcher,
            cgroup,
            stopping: Mutex::default(),
            spares: Spares::default(),
            policy,
            users,
            base_env,
            incarnation,
        };

        executions.zygote.ensure().await?;
        Ok((executions, ServerLock(lock)))
    }

    /// Starts an execution unless it exists.
    pub(crate) async fn start(
        self: &Arc<Self>,
        id: &ExecutionId,
        spec: &ExecutionSpec,
    ) -> Result<(), BackendError> {
        let mut tries = 0;
        while tries < LAUNCH_TRIES {
            let live = LiveName::new(id, disk::nonce());
            match self.table.claim(id, &live) {
                Claimed::Taken(phase) => {
                    if started(phase).await {
                        return Ok(());
                    }
                }
                Claimed::New(died) => {
                    tries += 1;
                    let result = self.launch(id, &live, spec, &died).await;
                    if let Ok(Decided::Yes) = result {
                        return Ok(());
                    }
                    // Has no effect when it is in doubt.
                    self.table.abandon(id, &live);
                    result?;
                }
            }
        }

        let message = format!(
            "`{id}` was not started: the supervisor process died {LAUNCH_TRIES} times on the way"
        );
        Err(BackendError::new(ErrorKind::Unavailable, message))
    }

    async fn launch(
        self: &Arc<Self>,
        id: &ExecutionId,
        live: &LiveName,
        spec: &ExecutionSpec,
        died: &Notify,
    ) -> Result<Decided, BackendError> {
        let account = match self.account(id).await {
            Ok(account) => account,
            Err(refusal) => return self.record_failure(id, live, spec::refused(refusal)).await,
        };

        let home = account.as_ref().map(|account| self.home(id, account));
        let prepared = match spec::prepare(&self.base_env, spec, home.as_ref()) {
            Ok(prepared) => prepared,
            Err(refusal) => return self.record_failure(id, live, refusal).await,
        };

        let user = account.map(|account| account.user);
        if let Begun::Ended = self.begin(id, live, user.as_ref())? {
            self.table.forget(id, live);
            return Ok(Decided::Yes);
        }

        let body = match self.body(id, live, prepared, &spec.resources, user) {
            Ok(body) if body.len() <= MAX_BODY_BYTES => body,
            Ok(_) => {
                let message = format!(
                    "the arguments and the environment together are longer than {MAX_BODY_BYTES} \
                     bytes; pass large values as objects"
                );
                return self.record_failure(id, live, spec::refused(message)).await;
            }
            Err(failure) => return self.record_failure(id, live, failure).await,
        };

        let launched = match self.zygote.launch(&body, died).await {
            Ok(launched) => launched,
            Err(error) => {
                self.settle(id, live, Settle::Now).await?;
                return Err(error);
            }
        };

        if let Launched::Answer(Reply { outcome: Outcome::Running, started_at, .. }) = launched
            && self.table.running(id, live, ExecutionTimes::since(Timestamp(started_at)))
        {
            return Ok(Decided::Yes);
        }

        match self.decide(id, live).await {
            Ok(decided) => Ok(decided),
            Err(error) => {
                // It may live: keep it known, so that nothing starts it again, and let `state`
                // settle it.
                self.table.doubt(id, live);
                Err(error)
            }
        }
    }

    /// There is no answer, or one that says to look at the files.
    async fn decide(
        self: &Arc<Self>,
        id: &ExecutionId,
        live: &LiveName,
    ) -> Result<Decided, BackendError> {
        let mut settled = self.settle(id, live, Settle::Now).await?;
        if let Settled::Alive(times) = settled
            && !self.table.running(id, live, times)
        {
            settled = self.settle(id, live, Settle::AfterClose).await?;
        }
        Ok(if settled == Settled::Void { Decided::No } else { Decided::Yes })
    }

    /// In place: a few entries in directories that are in memory take less time than to wake
    /// another thread.
    fn begin(
        &self,
        id: &ExecutionId,
        live: &LiveName,
        user: Option<&User>,
    ) -> Result<Begun, BackendError> {
        launch_dir::begin(&self.layout, &self.spares, id, live, user)
            .map_err(|error| io_error(format!("the directory of `{id}` could not be made"), error))
    }

    /// Whom the execution runs as, unless that is this server's user; or why it cannot.
    pub(crate) async fn account(
        self: &Arc<Self>,
        id: &ExecutionId,
    ) -> Result<Option<Account>, String> {
        if self.users.is_none() {
            return Ok(None);
        }
        let (this, namespace) = (self.clone(), id.run.namespace.clone());
        // The first time it is written down.
        let found =
            blocking(move || Ok(this.users.as_ref().map(|users| users.of(&namespace)).transpose()));
        found.await.map_err(|error| error.chain())?
    }

    fn home(&self, id: &ExecutionId, account: &Account) -> Home {
        let dir = self.layout.execution(id);
        Home { dir: dir.work(), tmp: dir.tmp(), user: account.name.clone() }
    }

    /// What binds the execution's processes.
    pub(crate) fn confinement(&self, user: Option<User>) -> Confinement {
        let mut limits = limits_at_start().to_vec();
        let in_cgroup = self.cgroup.as_ref().is_some_and(|base| base.max_processes().is_some());
        if user.is_some() && !in_cgroup {
            // Not above this process's own, which it might not be allowed to raise.
            let own = getrlimit(Resource::Nproc).maximum.unwrap_or(u64::MAX);
            let most = Some(own.min(u64::from(self.config.max_processes)));
            limits.push(Limit::new(Resource::Nproc, Rlimit { current: most, maximum: most }));
        }
        Confinement { limits, user, landlock: self.policy.landlock.clone() }
    }

    /// The request for the zygote; with the cgroup it names, made in place: it is in memory, too.
    fn body(
        &self,
        id: &ExecutionId,
        live: &LiveName,
        prepared: Prepared,
        resources: &Resources,
        user: Option<User>,
    ) -> Result<secrecy::zeroize::Zeroizing<Vec<u8>>, ExecutionState> {
        let cgroup = self.cgroup.as_ref().map(|base| base.create(live, resources)).transpose();
        let cgroup = cgroup
            .map_err(|error| spec::setup(format!("its cgroup could not be made: {error}")))?;
        let launch = Launch {
            live: self.layout.live(live),
            dir: self.layout.execution(id).path().to_owned(),
            working_dir: prepared.working_dir,
            service: prepared.service,
            separate_output: prepared.separate_output,
            max_log_bytes: self.config.max_log_bytes,
            free_disk_min: self.config.free_disk_min,
            timeout: prepared.timeout,
            cgroup,
            confinement: self.confinement(user),
        };

        Ok(launch.encode(&prepared.argv, &prepared.env))
    }

    /// An execution that never gets a supervisor.
    async fn record_failure(
        self: &Arc<Self>,
        id: &ExecutionId,
        live: &LiveName,
        failure: ExecutionState,
    ) -> Result<Decided, BackendError> {
        let (this, owned, entry) = (self.clone(), id.clone(), live.clone());
        let end = blocking(move || {
            let end = disk::record_end(&this.layout, &owned, failure.into()).map_err(|error| {
                io_error(format!("the end of `{owned}` could not be recorded"), error)
            })?;
            disk::forget(&this.layout, &entry);
            Ok(end)
        })
        .await?;
        self.table.ended(id, live, end);
        self.table.forget(id, live);
        Ok(Decided::Yes)
    }

    /// Finds out what became of a launch, and reports an end.
    async fn settle(
        self: &Arc<Self>,
        id: &ExecutionId,
        live: &LiveName,
        how: Settle,
    ) -> Result<Settled, BackendError> {
        let (this, owned, entry) = (self.clone(), id.clone(), live.clone());
        let settled = blocking(move || {
            disk::settle(&this.layout, this.cgroup.as_ref(), &owned, &entry, how).map_err(|error| {
                io_error(format!("the state of `{owned}` could not be read"), error)
            })
        })
        .await?;

        match &settled {
            Settled::Ended(end) => {
                self.table.ended(id, live, end.clone());
                self.table.forget(id, live);
            }
            Settled::Void => self.table.forget(id, live),
            Settled::Alive(_) => {}
        }

        Ok(settled)
    }

    /// What is known of an execution.
    pub(crate) async fn state(
        self: &Arc<Self>,
        id: &ExecutionId,
    ) -> Result<Observation, BackendError> {
        // First the table and then the files: what is in neither by then has never been, or was
        // removed.
        let Some(found) = self.table.find(id) else {
            let (layout, owned) = (self.layout.clone(), id.clone());
            let recorded = blocking(move || {
                record::read(&layout.execution(&owned)).map_err(|error| {
                    io_error(format!("the state of `{owned}` could not be read"), error)
                })
            });
            return Ok(recorded.await?.unwrap_or(ExecutionState::NotFound.into()));
        };

        let phase = *found.phase.borrow();
        match (found.end, phase) {
            (Some(end), _) => Ok(end),
            (None, Phase::Starting) => {
                Ok(ExecutionState::Queued { reason: "being started".to_owned() }.into())
            }
            (None, _) => Ok(match self.settle(id, &found.live, Settle::Now).await? {
                Settled::Ended(end) => end,
                Settled::Alive(times) => Observation { state: ExecutionState::Running, times },
                Settled::Void => ExecutionState::NotFound.into(),
            }),
        }
    }

    /// Reports every end, for as long as the scheduler is used.
    pub(crate) async fn watch_ends(self: Arc<Self>) {
        loop {
            match self.watcher.next().await {
                Ok(batch) => {
                    for happened in batch {
                        match happened {
                            Happened::Closed(id, live) => self.closed(id, live),
                            Happened::Overflow => self.look_at_all().await,
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the local scheduler can no longer watch its directory");
                    return;
                }
            }
        }
    }

    /// A supervisor closed its entry. Normally its record is there, and one small read in place is
    /// the fastest way to it.
    fn closed(self: &Arc<Self>, id: ExecutionId, live: LiveName) {
        if !self.table.knows(&id, &live) {
            return;
        }
        if let Ok(Some(end)) = live::read_end(&self.layout.live(&live)) {
            self.table.ended(&id, &live, end);
            match disk::file_away(&self.layout, &id, &live) {
                Ok(()) => self.table.forget(&id, &live),
                // It stays known, and the next server files it.
                Err(error) => {
                    tracing::error!(%id, %error, "the end of an execution could not be filed away")
                }
            }
        } else if self.table.supervisor_died(&id, &live) == Some(Phase::Running) {
            let this = self.clone();
            tokio::spawn(async move {
                if let Err(error) = this.settle(&id, &live, Settle::AfterClose).await {
                    tracing::error!(%id, error = error.chain(), "the end of an execution could not \
                                                                 be recorded");
                }
            });
        }
    }

    /// The kernel dropped events: look at everything once.
    async fn look_at_all(self: &Arc<Self>) {
        for (id, live, phase) in self.table.all() {
            if phase == Phase::Running
                && let Err(error) = self.settle(&id, &live, Settle::Now).await
            {
                tracing::error!(%id, error = error.chain(), "the state of an execution could not \
                                                             be read");
            }
        }
    }
}

async fn lock_server(layout: &Layout, passable: bool) -> Result<OwnedFd, BackendError> {
    let deadline = tokio::time::Instant::now() + LOCK_TIMEOUT;
    loop {
        let (layout, dir) = (layout.clone(), layout.root().display().to_string());
        let failed = format!("`dir` is `{dir}`: must be a directory that this user may write");
        let attempt = blocking(move || {
            disk::prepare(&layout, passable)
                .and_then(|()| disk::lock_server(&layout))
                .map_err(|error| io_error(failed, error))
        });

        match attempt.await? {
            Ok(lock) => return Ok(lock),
            Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOCK_RETRY_PAUSE).await
            }
            Err(owner) => {
                let message = format!(
                    "`dir` is `{dir}`: in use by the server with process id {owner}; stop it or \
                     choose another directory"
                );
                return Err(BackendError::new(ErrorKind::Unavailable, message));
            }
        }
    }
}

/// Settles every live entry, and returns those whose supervisor lives.
fn recover(
    layout: &Layout,
    cgroups: Option<&CgroupBase>,
) -> std::io::Result<Vec<(ExecutionId, LiveName)>> {
    let rebooted = disk::has_rebooted(layout)?;
    let mut alive = Vec::new();
    let mut rest = Vec::new();

    for (id, live) in disk::live_entries(layout)? {
        if !rebooted && disk::is_held(layout, &live)? {
            disk::repeat_stop(layout, &id, &live)?;
            alive.push((id, live));
        } else {
            rest.push((id, live));
        }
    }

    // An entry of an earlier launch that came to nothing says nothing about a later one that lives.
    let live_ids: HashSet<_> = alive.iter().map(|(id, _)| id.clone()).collect();
    let how = if rebooted { Settle::AfterReboot } else { Settle::Now };
    for (id, live) in rest {
        if !live_ids.contains(&id) {
            match disk::settle(layout, cgroups, &id, &live, how)? {
                Settled::Alive(_) => alive.push((id, live)),
                Settled::Ended(_) | Settled::Void => {}
            }
        } else {
            disk::forget(layout, &live);
        }
    }

    disk::note_boot(layout)?;
    if let Some(cgroups) = cgroups {
        cgroups.sweep(&alive.iter().map(|(_, live)| live).collect::<Vec<_>>());
    }

    disk::sweep(layout, &alive.iter().map(|(id, _)| layout.execution(id)).collect());
    Ok(alive)
}
