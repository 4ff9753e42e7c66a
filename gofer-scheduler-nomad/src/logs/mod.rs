//! Logs, read from the files that Nomad keeps on the node.
//!
//! Nomad splits a log over files (`main.stdout.0`, `.1`, …) and deletes the oldest. Its own `logs`
//! call knows positions only within a file, and its follow does not end with the task, so the files
//! are listed and read by position, and one list a second at most tells whether they have grown.
//! Nothing is held open, and an agent that restarts does not matter.
//!
//! ```text
//! open ──> Reader ──inspect──> is it over?
//!            ├── list the files ──> Tail (a position per stream) ──> pieces to read
//!            ├── read a piece ──> podman::Lines, where its driver writes headers ──> chunks
//!            └── no connection to the node: unavailable, until the node is gone for good
//! ```

mod podman;
mod tail;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_core::scheduler::{LogChunk, LogCursor, LogStream};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use reqwest::Method;
use tokio::sync::mpsc;

use crate::calls::{Inspected, JobCalls, JobKey};
use crate::config::ImageDriver;
use crate::http::client::{Query, encoded};
use crate::http::error::Failure;
use crate::http::types::{FileInfo, Node};
use crate::job::names::MAIN;
use crate::logs::tail::{Piece, Tail, own_files};
use crate::state;
use crate::state::history::History;

/// Pieces that wait for a slow reader.
const QUEUE: usize = 4;
/// The first pause between two looks at a log that has not grown; each further one is twice as
/// long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// The log of an ended task has been written to the end when it has not grown for so long: the end
/// is reported by another process than the one that writes the log.
const SETTLED: Duration = Duration::from_millis(400);

/// How often a client agent is asked again that says that it does not know an allocation.
const RESTORING_TRIES: u32 = 20;
/// The pause between two of these: reading hundreds of allocations from its disk takes an agent
/// seconds.
const RESTORING_PAUSE: Duration = Duration::from_millis(250);

type Chunk = Result<LogChunk, BackendError>;

/// Opens the log of an execution.
pub(crate) async fn open(
    calls: &Arc<JobCalls>,
    id: &ExecutionId,
    from: LogCursor,
    follow: bool,
) -> Result<BoxStream<'static, Chunk>, BackendError> {
    let not_found =
        || BackendError::new(ErrorKind::NotFound, format!("there is no execution `{id}`"));
    let inspected = calls.inspect(id).await?.ok_or_else(not_found)?;
    let (chunks, receiver) = mpsc::channel(QUEUE);
    let podman = is_podmans(&inspected).then(|| podman::Lines::new(from));

    // Podman's log is read from its beginning: only its lines say how much of it is whose.
    let begin = if podman.is_some() { LogCursor::default() } else { from };
    let mut reader = Reader {
        calls: calls.clone(),
        id: id.clone(),
        key: calls.key(id),
        alloc: None,
        over: false,
        tails: [
            Tail::new(LogStream::Stdout, begin.stdout),
            Tail::new(LogStream::Stderr, begin.stderr),
        ],
        podman,
        chunks,
    };

    reader.learn(&inspected);
    if let (true, Some(alloc)) = (reader.over, &reader.alloc) {
        // A log that is gone for good is an answer of this call, so that nobody tries for ever to
        // read it.
        reader.files(alloc).await?;
    }

    // What has ended is read to its end even without following: its last lines may not be written
    // yet. So is what reported its end: Nomad keeps what is still on its way until the allocation
    // ends.
    let follow = follow || reader.over || inspected.reported;
    tokio::spawn(reader.run(follow));
    let stream = futures::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });

    Ok(stream.boxed())
}

/// Whether the execution runs in podman, as its own job says: the configuration may have changed
/// since.
fn is_podmans(inspected: &Inspected) -> bool {
    let mut tasks = inspected.job.task_groups.iter().flat_map(|group| &group.tasks);
    tasks.any(|task| task.name == MAIN && task.driver == ImageDriver::Podman.as_str())
}

struct Reader {
    calls: Arc<JobCalls>,
    id: ExecutionId,
    key: JobKey,
    /// The allocation, once there is one.
    alloc: Option<String>,
    /// Nothing more will be written but what is on its way.
    over: bool,
    tails: [Tail; 2],
    podman: Option<podman::Lines>,
    chunks: mpsc::Sender<Chunk>,
}

/// Why reading stopped.
enum Stop {
    /// Nobody reads any more.
    Gone,
    Failed(BackendError),
}

impl From<BackendError> for Stop {
    fn from(error: BackendError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    async fn run(mut self, follow: bool) {
        let outcome = if follow { self.follow().await } else { self.copy().await.map(|_| ()) };
        if let Err(Stop::Failed(error)) = outcome {
            // A reader that has left wants no error.
            let _ = self.chunks.send(Err(error)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), Stop> {
        let mut pause = FIRST_PAUSE;
        let mut settled = false;
        loop {
            // Asked before the files are read: what was written before the end is then seen.
            if !self.over {
                match self.calls.inspect(&self.id).await? {
                    Some(inspected) => self.learn(&inspected),
                    None => self.over = true,
                }
            }

            let moved = self.copy().await?;
            if self.over && (self.alloc.is_none() || (settled && !moved)) {
                return Ok(());
            }

            settled = self.over;
            pause = match (self.over, moved) {
                (true, _) => SETTLED,
                (false, true) => FIRST_PAUSE,
                (false, false) => (pause * 2).min(LAST_PAUSE),
            };

            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.chunks.closed() => return Err(Stop::Gone),
            }
        }
    }

    /// Takes note of the execution's allocation, and of its end.
    fn learn(&mut self, inspected: &Inspected) {
        let own = inspected.own_alloc();
        self.alloc = own.map(|alloc| alloc.id.clone()).or(self.alloc.take());
        // A stopped job's allocation may still write its last lines.
        let silent =
            own.is_none_or(|alloc| state::is_terminal(alloc) || alloc.client_status == "unknown");
        self.over = inspected.view.state.is_final() && silent;
    }

    /// Hands out what there is now beyond what was handed out; whether there was anything.
    async fn copy(&mut self) -> Result<bool, Stop> {
        let Some(alloc) = self.alloc.clone() else { return Ok(false) };
        let files = self.files(&alloc).await?;
        let mut moved = false;

        for at in 0..self.tails.len() {
            let own = own_files(&files, self.tails[at].stream);
            self.tails[at].place(&own, self.calls.config.log.max_file_size_mb * 1024 * 1024);
            while let Some(piece) = self.tails[at].next(&own) {
                let bytes = self.read(&alloc, &piece).await?;
                if bytes.is_empty() {
                    // Shorter than it was listed: deleted since. The next list tells.
                    break;
                }

                moved = true;
                for chunk in self.tails[at].advance(&bytes) {
                    let chunks = match &mut self.podman {
                        Some(lines) if chunk.stream == LogStream::Stdout => lines.decode(&chunk),
                        _ => vec![chunk],
                    };
                    for chunk in chunks {
                        self.chunks.send(Ok(chunk)).await.map_err(|_| Stop::Gone)?;
                    }
                }
            }
        }

        Ok(moved)
    }

    async fn list(&self, alloc: &str) -> Result<Vec<FileInfo>, Failure> {
        let query = Query::namespace(&self.key.namespace).with("path", "alloc/logs");
        let answer = self
            .calls
            .client
            .get::<Option<Vec<FileInfo>>>(&format!("/v1/client/fs/ls/{alloc}"), &query)
            .await?;
        Ok(answer.value.unwrap_or_default())
    }

    async fn files(&self, alloc: &str) -> Result<Vec<FileInfo>, BackendError> {
        match self.list(alloc).await {
            Ok(files) => Ok(files),
            Err(failure) if failure.is_not_found() => self.without_files(failure).await,
            Err(failure) if failure.is_out_of_reach() => Err(self.out_of_reach().await?),
            Err(failure) => {
                Err(failure.backend(format!("the log of `{}` cannot be listed", self.id)))
            }
        }
    }

    /// There are no files to read: too early, never, or no more.
    async fn without_files(&self, mut failure: Failure) -> Result<Vec<FileInfo>, BackendError> {
        let Some(inspected) = self.calls.inspect(&self.id).await? else {
            return Err(self.deleted());
        };

        let Some(own) = inspected.own_alloc() else { return Ok(Vec::new()) };
        if !History::of(own).has_started() || !inspected.view.state.is_final() {
            return Ok(Vec::new());
        }

        // A client agent that was just started answers before it has read what it is to know.
        for _ in 0..RESTORING_TRIES {
            if !failure.is_unknown_allocation() {
                break;
            }

            tokio::time::sleep(RESTORING_PAUSE).await;
            failure = match self.list(&own.id).await {
                Ok(files) => return Ok(files),
                Err(failure) if failure.is_out_of_reach() => {
                    return Err(self.out_of_reach().await?);
                }
                Err(failure) => failure,
            };
        }

        let mut error = failure.backend(format!(
            "the log of `{}` is not on node `{}` any more; have the node's client keep more \
             (`gc_max_allocs`)",
            self.id, own.node_name
        ));
        error.kind = ErrorKind::NotFound;

        Err(error)
    }

    fn deleted(&self) -> BackendError {
        let message = format!(
            "nomad has deleted `{}` and its log; unless gofer did, have its garbage collection \
             wait longer (`job_gc_threshold`)",
            self.id
        );
        BackendError::new(ErrorKind::NotFound, message)
    }

    /// What it means that nobody has a connection to the node: nothing, until the node is gone from
    /// Nomad, or was away for so long that nobody waits for it any more. Its agent may just be
    /// restarted.
    async fn out_of_reach(&self) -> Result<BackendError, BackendError> {
        let Some(inspected) = self.calls.inspect(&self.id).await? else {
            return Ok(self.deleted());
        };

        let Some(own) = inspected.own_alloc() else { return Ok(self.deleted()) };
        let (id, name) = (&self.id, &own.node_name);
        let gone = |why: String| {
            let message = format!("the log of `{id}` went with node `{name}`, {why}");
            BackendError::new(ErrorKind::NotFound, message)
        };

        let patience = self.calls.config.node_gone_after;
        let path = format!("/v1/node/{}", encoded(&own.node_id));
        let hint = match self.calls.client.get::<Node>(&path, &Query::default()).await {
            Ok(answer) if is_away(&answer.value, patience) => {
                let status = &answer.value.status;
                return Ok(gone(format!(
                    "which is `{status}` for longer than `node_gone_after` ({patience:?})"
                )));
            }
            Ok(answer) => format!("nomad says `{}`", answer.value.status),
            Err(failure) if failure.is_not_found() => {
                return Ok(gone("which nomad does not know any more".to_owned()));
            }
            Err(failure) if failure.is_denied() => {
                "gofer's token lacks `node:read` to ask for how long".to_owned()
            }
            Err(failure) => {
                return Err(failure.backend(format!("node `{name}` cannot be asked for")));
            }
        };

        let message = format!(
            "node `{name}` of `{id}` is out of reach now ({hint}), and so is its log: try again \
             later"
        );

        Ok(BackendError::new(ErrorKind::Unavailable, message))
    }

    async fn read(&self, alloc: &str, piece: &Piece) -> Result<Vec<u8>, Stop> {
        let query = Query::namespace(&self.key.namespace)
            .with("path", &format!("alloc/logs/{}", piece.file))
            .with("offset", &piece.offset.to_string())
            .with("limit", &piece.limit.to_string());
        let path = format!("/v1/client/fs/readat/{alloc}");

        match self.calls.client.bytes(Method::GET, &path, &query, None).await {
            Ok(answer) if answer.value.len() as u64 == piece.limit => Ok(answer.value),
            Ok(_) => {
                // What goes wrong after the answer has begun, Nomad says in the answer: these are
                // not the log's bytes. If the log is gone, this says so; if not, it is read again.
                self.files(alloc).await?;
                Ok(Vec::new())
            }
            Err(failure) if failure.is_not_found() => Ok(Vec::new()),
            Err(failure) if failure.is_out_of_reach() => Err(self.out_of_reach().await?.into()),
            Err(failure) => {
                Err(failure.backend(format!("the log of `{}` cannot be read", self.id)).into())
            }
        }
    }
}

/// Whether a node is away for longer than this. One that is ready, by its heartbeats, is not away
/// at all.
fn is_away(node: &Node, patience: Duration) -> bool {
    let since =
        UNIX_EPOCH + Duration::from_secs(u64::try_from(node.status_updated_at).unwrap_or(0));
    node.status != "ready"
        && SystemTime::now().duration_since(since).is_ok_and(|away| away > patience)
}
