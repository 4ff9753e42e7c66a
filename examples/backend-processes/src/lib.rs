#![doc = include_str!("../README.md")]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as IoKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use gofer_core::scheduler::{
    EnvValue, ExecutionKind, ExecutionSpec, ExecutionState, ExecutionTimes, LogChunk, LogCursor, LogStream,
    Observation, Scheduler, SchedulerCapabilities, WatchEvent,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use secrecy::ExposeSecret as _;

/// How often the files are looked at. A product with a stream of changes needs no such constant.
pub const POLL: Duration = Duration::from_millis(20);
/// The most that one chunk of a log holds, by the contract.
const CHUNK_BYTES: usize = 64 * 1024;

type Result<T, E = BackendError> = std::result::Result<T, E>;
type Results<T> = BoxStream<'static, Result<T>>;

// ANCHOR: config
/// The table `[scheduler.processes]`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessesConfig {
    /// An absolute directory of this scheduler's own; made if it is not there.
    pub dir: PathBuf,
    /// The program `processes-supervisor` of this crate.
    pub supervisor: PathBuf,
}
// ANCHOR_END: config

/// Tasks as child processes, each below a supervisor that outlives the server.
#[derive(Debug)]
pub struct ProcessScheduler {
    config: ProcessesConfig,
    incarnation: u64,
}

impl ProcessScheduler {
    // ANCHOR: connect
    /// Opens the directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn connect(config: ProcessesConfig) -> Result<Self> {
        blocking("cannot open the scheduler's directory", move || {
            // A folder that a crash left in `staging` never was an execution, or no longer is one.
            optional(fs::remove_dir_all(config.dir.join("staging")))?;
            fs::create_dir_all(config.dir.join("staging"))?;
            fs::create_dir_all(config.dir.join("executions"))?;
            // Nothing is synced, so nothing is sure to be remembered beyond the machine's last boot.
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
            let incarnation = u64::from_str_radix(&boot[..8], 16).map_err(io::Error::other)?;
            Ok(Self { config, incarnation })
        })
        .await
    }
    // ANCHOR_END: connect

    fn folder(&self, id: &ExecutionId) -> Folder {
        // No part of an id has a dot, and the longest id is shorter than the longest name of a file.
        Folder(self.config.dir.join("executions").join(id.to_string().replace('/', ".")))
    }
}

#[async_trait]
impl Scheduler for ProcessScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities { host: true, ..SchedulerCapabilities::default() }
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    async fn check(&self) -> Result<String> {
        let (program, found) = (self.config.supervisor.clone(), format!("processes, `{}`", self.config.dir.display()));
        let next_step = "`scheduler.processes.supervisor` must name the program `processes-supervisor`";
        blocking(next_step, move || fs::metadata(program).map(|_| found)).await
    }

    // ANCHOR: start
    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<()> {
        if spec.image.is_some() {
            let message = format!("`{id}` has an image, which the scheduler `processes` cannot run: leave it out");
            return Err(BackendError::new(ErrorKind::Unsupported, message));
        }
        let (folder, config, spec) = (self.folder(id), self.config.clone(), spec.clone());
        blocking("cannot start an execution", move || {
            let staging = tempfile::tempdir_in(config.dir.join("staging"))?;
            fs::create_dir(staging.path().join("work"))?;
            File::create(staging.path().join("stdout"))?;
            File::create(staging.path().join("stderr"))?;
            // Locked from before the execution exists until its supervisor has ended.
            let lock = File::create(staging.path().join("lock"))?;
            lock.lock()?;
            match fs::rename(staging.path(), &folder.0) {
                // The name was used before, or another call was first.
                Err(error) if error.kind() == IoKind::DirectoryNotEmpty => return Ok(()),
                renamed => renamed?,
            }
            // The supervisor inherits the lock as its standard input: there is no moment without a holder.
            supervisor(&config, &folder, &spec).stdin(lock).spawn().map(drop)
        })
        .await
    }
    // ANCHOR_END: start

    // ANCHOR: stop
    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<()> {
        let folder = self.folder(id);
        blocking("cannot ask for a stop", move || {
            let kill_at = uptime_ms().saturating_add(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
            // A line is appended whole; the supervisor takes the earliest.
            let file = optional(OpenOptions::new().append(true).create(true).open(folder.0.join("stop")))?;
            file.map_or(Ok(()), |mut file| file.write_all(format!("{kill_at}\n").as_bytes()))
        })
        .await
    }
    // ANCHOR_END: stop

    async fn state(&self, id: &ExecutionId) -> Result<Observation> {
        let folder = self.folder(id);
        blocking("cannot read what is known of an execution", move || folder.state()).await
    }

    // ANCHOR: watch
    async fn watch(&self) -> Result<Results<WatchEvent>> {
        let dir = self.config.dir.join("executions");
        let known = look_at_all(dir.clone(), HashMap::new()).await?;
        let changes = stream::try_unfold((dir, known), |(dir, known)| async move {
            tokio::time::sleep(POLL).await;
            let now = look_at_all(dir.clone(), known.clone()).await?;
            let new = now.iter().filter(|(id, found)| known.get(*id) != Some(*found));
            let new: Vec<_> = new.map(|(id, found)| Ok(WatchEvent::new(id.clone(), found.clone()))).collect();
            Ok::<_, BackendError>(Some((stream::iter(new), (dir, now))))
        });
        Ok(changes.try_flatten().boxed())
    }
    // ANCHOR_END: watch

    // ANCHOR: logs
    async fn logs(&self, id: &ExecutionId, from: LogCursor, follow: bool) -> Result<Results<LogChunk>> {
        if self.state(id).await?.state == ExecutionState::NotFound {
            return Err(BackendError::new(ErrorKind::NotFound, format!("no execution `{id}`")));
        }
        let next = move |(folder, mut cursor): (Folder, LogCursor)| async move {
            loop {
                let look = folder.clone();
                // First whether more can come, then the bytes: the other way round the last bytes get lost.
                let read = move || Ok((look.state()?.state.is_final(), look.read_log(cursor)?));
                let (ended, chunk) = blocking("cannot read a log", read).await?;
                if let Some(chunk) = chunk {
                    cursor.advance(&chunk);
                    return Ok(Some((chunk, (folder, cursor))));
                } else if ended || !follow {
                    return Ok(None);
                }
                tokio::time::sleep(POLL).await;
            }
        };
        Ok(stream::try_unfold((self.folder(id), from), next).boxed())
    }
    // ANCHOR_END: logs

    // ANCHOR: remove
    async fn remove(&self, id: &ExecutionId) -> Result<()> {
        if !self.state(id).await?.state.is_final() {
            return Err(BackendError::new(ErrorKind::Invalid, format!("`{id}` has not finished: stop it first")));
        }
        let (folder, staging) = (self.folder(id), self.config.dir.join("staging"));
        blocking("cannot remove an execution", move || {
            // In one step out of the way; the rest goes with the temporary directory.
            let staging = tempfile::tempdir_in(staging)?;
            optional(fs::rename(&folder.0, staging.path())).map(drop)
        })
        .await
    }
    // ANCHOR_END: remove
}

fn supervisor(config: &ProcessesConfig, folder: &Folder, spec: &ExecutionSpec) -> tokio::process::Command {
    let work = folder.0.join("work");
    let kind = if spec.kind == ExecutionKind::Service { "service" } else { "task" };
    let mut command = tokio::process::Command::new(&config.supervisor);
    command.arg(&folder.0).arg(kind).arg(spec.working_dir.as_ref().map_or(&*work, Path::new));
    command.args(&spec.entrypoint).args(&spec.command).stdout(Stdio::null()).stderr(Stdio::null());
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", &work);
    // From process to process: neither a file nor a command line ever has a value.
    command.envs(spec.env.iter().map(|(name, value)| match value {
        EnvValue::Plain(value) => (name, value.as_str()),
        EnvValue::Secret(value) => (name, value.expose_secret()),
    }));
    command
}

type States = HashMap<ExecutionId, Observation>;

/// The state of everything; an end that is known is not looked up again.
async fn look_at_all(dir: PathBuf, known: States) -> Result<States> {
    let look = move |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let id =
            entry.file_name().to_string_lossy().replace('.', "/").parse::<ExecutionId>().map_err(io::Error::other)?;
        let end = known.get(&id).filter(|found| found.state.is_final()).cloned();
        Ok((id, end.map_or_else(|| Folder(entry.path()).state(), Ok)?))
    };
    blocking("cannot look for changes", move || fs::read_dir(dir)?.map(look).collect()).await
}

/// The folder of one execution, with all that is known of it.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Folder {
    // ANCHOR: state
    /// The state as the files show it now.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn state(&self) -> io::Result<Observation> {
        if let Some(end) = self.ended()? {
            return Ok(end);
        }
        let Some(lock) = optional(File::open(self.0.join("lock")))? else { return Ok(ExecutionState::NotFound.into()) };
        let began = fs::metadata(self.0.join("running")).ok().and_then(|running| running.modified().ok());
        let alive = began.map_or_else(|| Observation::queued(""), |at| Observation::running(at.into()));
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Ok(alive),
            Err(TryLockError::Error(error)) => Err(error),
            // Nobody is left to write the end; it may have been written since the look above.
            Ok(()) => Ok(self.ended()?.unwrap_or(ExecutionState::Lost.into())),
        }
    }
    // ANCHOR_END: state

    /// Writes how and when it ended, for good.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn end(&self, state: ExecutionState, ended_at: SystemTime) -> io::Result<()> {
        let times = ExecutionTimes { ended_at: Some(ended_at.into()), ..self.state()?.times };
        fs::write(self.0.join("end.new"), serde_json::to_vec(&Observation { state, times })?)?;
        fs::rename(self.0.join("end.new"), self.0.join("end"))
    }

    fn ended(&self) -> io::Result<Option<Observation>> {
        let text = optional(fs::read(self.0.join("end")))?;
        Ok(text.map(|text| serde_json::from_slice(&text)).transpose()?)
    }

    /// When it is to be killed, by [`uptime_ms`], if a stop was asked for.
    pub fn kill_at_ms(&self) -> Option<u64> {
        let text = fs::read_to_string(self.0.join("stop")).ok()?;
        text.lines().filter_map(|line| line.parse().ok()).min()
    }

    fn read_log(&self, cursor: LogCursor) -> io::Result<Option<LogChunk>> {
        for (stream, name) in [(LogStream::Stdout, "stdout"), (LogStream::Stderr, "stderr")] {
            let (offset, mut data) = (cursor.of(stream), vec![0; CHUNK_BYTES]);
            let length = File::open(self.0.join(name))?.read_at(&mut data, offset)?;
            data.truncate(length);
            if !data.is_empty() {
                return Ok(Some(LogChunk { stream, offset, data: data.into(), at: None }));
            }
        }
        Ok(None)
    }
}

/// Milliseconds since the machine started: the clock of stops, which nobody sets.
pub fn uptime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// `None` for what is not there.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    result.map(Some).or_else(|error| if error.kind() == IoKind::NotFound { Ok(None) } else { Err(error) })
}

// ANCHOR: errors
/// Runs file work off the async threads, and says what could not be done.
async fn blocking<T: Send + 'static>(doing: &str, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| {
        let kind = match error.kind() {
            IoKind::StorageFull | IoKind::QuotaExceeded => ErrorKind::Exhausted,
            IoKind::PermissionDenied | IoKind::ReadOnlyFilesystem => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        BackendError::new(kind, doing).with_source(error)
    })
}
// ANCHOR_END: errors
