//! Supervisors whose execution is over, and who wait a moment for the next.
//!
//! All of them, and the zygote, have the same socket: whoever receives a request has it. The zygote
//! leaves requests to the idle ones while there are any, since it would have to fork. How many
//! there are is a guess in shared memory, which a process that is killed leaves too high: then the
//! zygote finds a request that nobody took, within [`LINGER_TIMEOUT`], and counts anew. (A process
//! that is killed between taking a request and locking its live entry takes the request along. The
//! server notices when no answer comes, and launches again.)

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::sys;

/// How long a supervisor waits for another execution.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// More than these need not wait.
const MAX_IDLE: u32 = 4;

/// Why the zygote looks at the socket.
#[derive(PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody is idle.
    Nobody,
    /// Those that are idle have had time enough to take what is there.
    Overdue,
    /// Not for the socket: a child has ended.
    Child,
}

pub(super) struct Idle {
    count: &'static AtomicU32,
    /// Tells the zygote that nobody is idle any more.
    none_left: OwnedFd,
    /// Since when the zygote leaves the socket to them, however often it is called away.
    left_to_them: Option<Instant>,
}

impl Idle {
    pub(super) fn new() -> rustix::io::Result<Self> {
        let none_left = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { count: sys::shared_counter()?, none_left, left_to_them: None })
    }

    /// A supervisor is about to wait for a request. `false` when enough do.
    pub(super) fn enter(&self) -> bool {
        let add = |count| (count < MAX_IDLE).then_some(count + 1);
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).is_ok()
    }

    /// It no longer does.
    pub(super) fn leave(&self) {
        let subtract = |count: u32| count.checked_sub(1);
        if self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, subtract) == Ok(1) {
            // It cannot be full: the zygote only ever waits for it not to be zero.
            let _ = rustix::io::write(&self.none_left, &1_u64.to_ne_bytes());
        }
    }

    /// The zygote: waits until it has to look at the socket, or at its children.
    pub(super) fn wait_for_turn(&mut self, socket: &OwnedFd, children: &OwnedFd) -> Turn {
        loop {
            while self.count.load(Ordering::SeqCst) == 0 {
                self.left_to_them = None;
                let mut fds =
                    [PollFd::new(socket, PollFlags::IN), PollFd::new(children, PollFlags::IN)];
                let _ = poll(&mut fds, None);
                if !fds[1].revents().is_empty() {
                    return Turn::Child;
                }

                // A supervisor may have become idle since, and is on the way to it.
                if self.count.load(Ordering::SeqCst) == 0 {
                    return Turn::Nobody;
                }
            }

            let since = *self.left_to_them.get_or_insert_with(Instant::now);
            let rest = Timespec::try_from(LINGER_TIMEOUT.saturating_sub(since.elapsed()))
                .unwrap_or_default();

            // Of the socket only its end, which need not be asked for.
            let mut fds = [
                PollFd::new(&self.none_left, PollFlags::IN),
                PollFd::new(socket, PollFlags::empty()),
                PollFd::new(children, PollFlags::IN),
            ];
            let happened = poll(&mut fds, Some(&rest));
            let (gone, child) = (!fds[1].revents().is_empty(), !fds[2].revents().is_empty());
            let _ = rustix::io::read(&self.none_left, &mut [0_u8; 8]);

            if gone || happened == Ok(0) {
                self.left_to_them = None;
                return Turn::Overdue;
            }

            if child {
                return Turn::Child;
            }
        }
    }

    /// The zygote found a request though somebody should have been idle.
    pub(super) fn nobody_took(&self) {
        self.count.store(0, Ordering::SeqCst);
    }
}
