//! The few system calls that no safe library offers: fork, clone, signal masks, shared memory,
//! another user's name for a moment, and a look at exited children.
//!
//! This is the crate's only module with `unsafe`. All but [`async_fd`] and [`can_be_born_in`] runs
//! in the zygote and its supervisors, which are single-threaded by construction: [`crate::supervisor::main`] starts no
//! thread and uses nothing that does.
#![expect(
    unsafe_code,
    reason = "fork, clone, sigaction, waitid, mmap, setfsuid and AsyncFd::register have no safe \
              wrapper"
)]

mod spawn;

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicU32;

use rustix::io::{Errno, Result};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

use crate::confinement::User;

pub(crate) use spawn::{Bounds, Spawn, SpawnError, Spawner, Step, Streams, can_be_born_in};

/// Signals a supervisor receives through its signalfd instead of a handler.
const SUPERVISED: [i32; 2] = [libc::SIGCHLD, libc::SIGUSR1];

/// Signals that reach whole groups of processes and are not meant for what must outlive the server.
const IGNORED: [i32; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE];

/// Registers a descriptor with the async runtime.
pub(crate) fn async_fd(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the same number, and keeps it open for as long as it is
    // registered.
    unsafe { AsyncFd::register(fd) }.map_err(std::io::Error::from)
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The process that called, and the new one's number.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Forks. The caller is single-threaded (see the module's comment), so the child may do anything
/// the parent may.
pub(crate) fn fork() -> Result<Fork> {
    // SAFETY: no other thread exists that could hold a lock the child needs.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::CHILD),
    }
}

/// Ends the process without running what `atexit` or destructors would.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every file descriptor from 3 on: those this process inherited by somebody's oversight.
pub(crate) fn close_inherited() {
    // SAFETY: called first thing in `main`, when this process owns no descriptor but the standard
    // three. An old kernel answers ENOSYS, and then they stay open.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// The zygote's signals: what supervisors wait for is blocked from the start, so that none is lost
/// between fork and signalfd.
pub(crate) fn prepare_zygote_signals() {
    for signal in IGNORED {
        set_disposition(signal, libc::SIG_IGN);
    }
    set_disposition(libc::SIGCHLD, libc::SIG_DFL);
    let set = signal_set(&SUPERVISED);
    // SAFETY: `set` is initialized; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// Where the signals of [`prepare_zygote_signals`] arrive: the ends of children, and requests to
/// stop.
pub(crate) fn blocked_signals() -> Result<OwnedFd> {
    let set = signal_set(&SUPERVISED);
    // SAFETY: `set` is initialized; -1 asks for a new descriptor, which is then owned here alone.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(last_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A number, at first 0, that this process shares with those it forks. It stays for as long as they
/// live.
pub(crate) fn shared_counter() -> Result<&'static AtomicU32> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, never unmapped, aligned to a page and filled with zeros, which is a
    // valid AtomicU32.
    unsafe {
        let address = libc::mmap(ptr::null_mut(), size_of::<AtomicU32>(), protection, flags, -1, 0);
        if address == libc::MAP_FAILED {
            Err(last_error())
        } else {
            Ok(&*address.cast::<AtomicU32>())
        }
    }
}

/// Does something with another user's rights to files and processes, and no more than these. The
/// caller has the right to become that user, and is single-threaded.
pub(crate) fn as_user<T>(user: Option<&User>, work: impl FnOnce() -> T) -> T {
    let Some(user) = user else { return work() };
    // SAFETY: numbers only. The group first, and last: setting it takes the rights that the other
    // call gives up.
    unsafe {
        let (gid, uid) = (libc::setfsgid(user.gid), libc::setfsuid(user.uid));
        let done = work();
        libc::setfsuid(uid.cast_unsigned());
        libc::setfsgid(gid.cast_unsigned());
        done
    }
}

/// Takes the signals that wait on a signalfd. Which they are does not matter: the caller looks at
/// everything.
pub(crate) fn drain_signals(fd: BorrowedFd<'_>) {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>() * 4];
    while matches!(rustix::io::read(fd, &mut buffer), Ok(count) if count > 0) {}
}

/// A child that has exited, left unreaped so that its process id stays reserved. `None` when all
/// children are alive, `ECHILD` when there is none.
pub(crate) fn peek_exited_child() -> Result<Option<Pid>> {
    // SAFETY: an all-zero siginfo_t is valid; waitid fills it in, or leaves si_pid 0 when no child
    // has exited.
    unsafe {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) < 0 {
            return Err(last_error());
        }
        Ok(Pid::from_raw(info.assume_init().si_pid()))
    }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set; the numbers are valid signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: only SIG_IGN and SIG_DFL are passed, so no handler of ours ever runs.
    unsafe { libc::signal(signal, disposition) };
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
