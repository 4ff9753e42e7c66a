//! The owner, as those see it who end with it; see [`crate::owner`].

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio;

use crate::disk;
use crate::owner::FOLDER_VARIABLE;

/// How long a task has between SIGTERM and SIGKILL when its owner is gone: as when a run is
/// cancelled.
pub(super) const OWNER_GONE_GRACE: Duration = Duration::from_secs(10);

/// What a process has of its owner.
pub(super) struct Owner {
    /// Nothing is ever written to it. Its end is the owner's.
    life: OwnedFd,
    folder: Option<PathBuf>,
    others: Others,
}

/// A pipe of the zygote and the supervisors it has forked. Whoever finds that nobody else can write
/// to it is the last of them.
struct Others {
    seen: OwnedFd,
    held: OwnedFd,
}

impl Owner {
    /// The owner is on the other side of standard output, if that is a pipe.
    pub(super) fn inherited() -> rustix::io::Result<Option<Self>> {
        let output = stdio::stdout();
        if FileType::from_raw_mode(fstat(output)?.st_mode) != FileType::Fifo {
            return Ok(None);
        }
        let life = fcntl_dupfd_cloexec(output, 3)?;
        let folder = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
        let (seen, held) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Some(Self { life, folder, others: Others { seen, held } }))
    }

    /// Readable once the owner is gone, and from then on.
    pub(super) fn life(&self) -> PollFd<'_> {
        PollFd::new(&self.life, PollFlags::IN)
    }

    pub(super) fn is_gone(&self) -> bool {
        has_ended(&self.life, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// This process is about to end. With the owner gone, the last one takes the owner's folder
    /// along.
    ///
    /// Two that leave at the same moment may both be the last, and then both remove what is left. A
    /// process that is killed leaves as well: of those that are not, one is the last.
    pub(super) fn leave(self) {
        let Self { life, folder, others: Others { seen, held } } = self;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_gone = has_ended(&life, Some(&now));
        drop(held);
        if let Some(folder) = folder
            && is_gone
            && has_ended(&seen, Some(&now))
            && folder.exists()
        {
            disk::delete_tree(&folder);
        }
    }
}

/// Whether nobody can write to the pipe, waiting for that as long as is said.
fn has_ended(pipe: &OwnedFd, timeout: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let _ = poll(&mut fds, timeout);
    fds[0].revents().contains(PollFlags::HUP)
}
