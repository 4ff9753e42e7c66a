//! One inotify descriptor for everything the server waits for: ends of executions and growth of
//! logs.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::layout::LiveName;
use gofer_core::ExecutionId;

/// Room for about a hundred events per read.
const BUFFER_BYTES: usize = 32 * 1024;

/// The descriptor, and who waits for which log.
#[derive(Debug)]
pub(crate) struct Watcher {
    fd: AsyncFd<OwnedFd>,
    logs: Mutex<HashMap<i32, LogWatch>>,
}

#[derive(Debug)]
struct LogWatch {
    grown: watch::Sender<()>,
    followers: usize,
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    /// A supervisor closed its live entry: it has ended, or is just about to.
    Closed(ExecutionId, LiveName),
    /// The kernel dropped events; anything may have happened.
    Overflow,
}

impl Watcher {
    /// Watches the directory of live entries for supervisors that end.
    pub(crate) fn open(live_dir: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, live_dir, WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR)?;
        Ok(Self { fd: crate::sys::async_fd(fd)?, logs: Mutex::default() })
    }

    /// Waits for what happens next. Growth of logs is passed on to the followers, and not reported.
    pub(crate) async fn next(&self) -> io::Result<Vec<Happened>> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(batch) = ready.try_io(|fd| self.read(fd.get_ref())) {
                let batch = batch?;
                if !batch.is_empty() {
                    return Ok(batch);
                }
            }
        }
    }

    /// Reads one buffer full.
    fn read(&self, fd: &OwnedFd) -> io::Result<Vec<Happened>> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(fd, &mut buffer);
        let mut batch = Vec::new();

        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };

            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.wake_all();
                batch.push(Happened::Overflow);
            } else if event.events().intersects(ReadFlags::MODIFY | ReadFlags::CREATE) {
                self.wake(event.wd());
            } else if event.events().contains(ReadFlags::CLOSE_WRITE)
                && let Some((id, live)) =
                    event.file_name().and_then(|name| LiveName::parse(name.to_str().ok()?))
            {
                batch.push(Happened::Closed(id, live));
            }

            if reader.is_buffer_empty() {
                return Ok(batch);
            }
        }
    }

    fn wake(&self, wd: i32) {
        if let Some(log) = self.logs.lock().unwrap_or_else(PoisonError::into_inner).get(&wd) {
            log.grown.send_replace(());
        }
    }

    fn wake_all(&self) {
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).values() {
            log.grown.send_replace(());
        }
    }

    /// Watches the log in an execution's directory for growth, until the value returned is dropped.
    /// `None` when there is no such directory. (Of the directory, since the log is made with its
    /// first line.)
    pub(crate) fn follow(self: &Arc<Self>, dir: &Path) -> io::Result<Option<Follower>> {
        // The lock is held across the system call, so that a last follower who leaves does not
        // remove a new one's watch.
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let wd = match inotify::add_watch(
            self.fd.get_ref(),
            dir,
            WatchFlags::MODIFY | WatchFlags::CREATE,
        ) {
            Ok(wd) => wd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };

        let log = logs
            .entry(wd)
            .or_insert_with(|| LogWatch { grown: watch::Sender::new(()), followers: 0 });
        log.followers += 1;

        Ok(Some(Follower { grown: log.grown.subscribe(), wd, watcher: self.clone() }))
    }
}

/// Somebody who waits for a log to grow.
#[derive(Debug)]
pub(crate) struct Follower {
    grown: watch::Receiver<()>,
    wd: i32,
    watcher: Arc<Watcher>,
}

impl Follower {
    /// Waits until the log has grown since this was last called.
    pub(crate) async fn grown(&mut self) {
        // The sender lives as long as this follower is counted.
        let _ = self.grown.changed().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut logs = self.watcher.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = logs.get_mut(&self.wd) {
            log.followers -= 1;
            if log.followers == 0 {
                logs.remove(&self.wd);
                // It fails when the directory was deleted, and the watch with it.
                let _ = inotify::remove_watch(self.watcher.fd.get_ref(), self.wd);
            }
        }
    }
}
