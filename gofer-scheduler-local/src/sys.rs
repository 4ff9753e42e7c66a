//! The few system calls that no safe library offers: fork, posix_spawn, signal masks, shared memory and a look at exited
//! children.
//!
//! This is the crate's only module with `unsafe`. All but [`async_fd`] runs in the warden and its supervisors, which are
//! single-threaded by construction: [`crate::supervisor::main`] starts no thread and uses nothing that does.
#![expect(
    unsafe_code,
    reason = "fork, posix_spawn, sigaction, waitid, mmap and AsyncFd::register have no safe wrapper"
)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicU32;

use rustix::io::{Errno, Result};
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

/// Signals a supervisor receives through its signalfd instead of a handler.
const SUPERVISED: [i32; 2] = [libc::SIGCHLD, libc::SIGUSR1];

/// Signals that reach whole groups of processes and are not meant for what must outlive the server.
const IGNORED: [i32; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE];

/// Registers a descriptor with the async runtime.
pub(crate) fn async_fd(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the same number, and keeps it open for as long as it is registered.
    unsafe { AsyncFd::register(fd) }.map_err(std::io::Error::from)
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The process that called.
    Parent,
    /// The new one.
    Child,
}

/// Forks. The caller is single-threaded (see the module's comment), so the child may do anything the parent may.
pub(crate) fn fork() -> Result<Fork> {
    // SAFETY: no other thread exists that could hold a lock the child needs.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => Ok(Fork::Child),
        _ => Ok(Fork::Parent),
    }
}

/// Ends the process without running what `atexit` or destructors would.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every file descriptor from 3 on: those this process inherited by somebody's oversight.
pub(crate) fn close_inherited() {
    // SAFETY: called first thing in `main`, when this process owns no descriptor but the standard three. An old kernel
    // answers ENOSYS, and then they stay open.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// The warden's signals: what supervisors wait for is blocked from the start, so that none is lost between fork and
/// signalfd; supervisors that end are reaped by the kernel.
pub(crate) fn prepare_warden_signals() {
    for signal in IGNORED {
        set_disposition(signal, libc::SIG_IGN);
    }
    set_disposition(libc::SIGCHLD, libc::SIG_IGN);
    let set = signal_set(&SUPERVISED);
    // SAFETY: `set` is initialized; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// The supervisor's signals: children are waited for again, and arrive with stop requests on the descriptor returned.
pub(crate) fn supervisor_signals() -> Result<OwnedFd> {
    set_disposition(libc::SIGCHLD, libc::SIG_DFL);
    let set = signal_set(&SUPERVISED);
    // SAFETY: `set` is initialized; -1 asks for a new descriptor, which is then owned here alone.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(last_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A number, at first 0, that this process shares with those it forks. It stays for as long as they live.
pub(crate) fn shared_counter() -> Result<&'static AtomicU32> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, never unmapped, aligned to a page and filled with zeros, which is a valid AtomicU32.
    unsafe {
        let address = libc::mmap(ptr::null_mut(), size_of::<AtomicU32>(), protection, flags, -1, 0);
        if address == libc::MAP_FAILED { Err(last_error()) } else { Ok(&*address.cast::<AtomicU32>()) }
    }
}

/// Takes the signals that wait on a signalfd. Which they are does not matter: the caller looks at everything.
pub(crate) fn drain_signals(fd: BorrowedFd<'_>) {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>() * 4];
    while matches!(rustix::io::read(fd, &mut buffer), Ok(count) if count > 0) {}
}

/// A child that has exited, left unreaped so that its process id stays reserved. `None` when all children are alive,
/// `ECHILD` when there is none.
pub(crate) fn peek_exited_child() -> Result<Option<Pid>> {
    // SAFETY: an all-zero siginfo_t is valid; waitid fills it in, or leaves si_pid 0 when no child has exited.
    unsafe {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) < 0 {
            return Err(last_error());
        }
        Ok(Pid::from_raw(info.assume_init().si_pid()))
    }
}

/// What a new process gets.
pub(crate) struct Spawn<'a> {
    /// The file to execute.
    pub(crate) program: &'a CStr,
    /// Its arguments, with its own name first.
    pub(crate) argv: &'a [&'a CStr],
    /// Its environment, as `NAME=value`.
    pub(crate) env: &'a [&'a CStr],
    /// Where its three standard streams lead.
    pub(crate) stdio: Streams<'a>,
}

/// Where three standard streams lead.
pub(crate) enum Streams<'a> {
    /// To these descriptors.
    Files([BorrowedFd<'a>; 3]),
    /// All to this terminal, which becomes the session's own.
    Terminal(&'a CStr),
}

/// Starts a process in a new session (and so a new process group), with every signal at its default and none blocked.
/// Every other descriptor of ours is CLOEXEC. The error is that of the exec itself: the call returns after it.
///
/// posix_spawn and not fork: the C library shares the address space until the exec, which is several times faster.
pub(crate) fn spawn(what: &Spawn<'_>) -> Result<Pid> {
    let argv = null_terminated(what.argv);
    let env = null_terminated(what.env);
    let mut pid: libc::pid_t = 0;
    // SAFETY: both attribute objects are initialized before use and destroyed after; the arrays end with a null pointer
    // and their strings outlive the call.
    let code = unsafe {
        let mut attributes = MaybeUninit::<libc::posix_spawnattr_t>::uninit();
        let mut actions = MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
        check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
        check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
        let flags = libc::POSIX_SPAWN_SETSID
            | libc::POSIX_SPAWN_SETSIGMASK as libc::c_short
            | libc::POSIX_SPAWN_SETSIGDEF as libc::c_short;
        let all = full_signal_set();
        let none = signal_set(&[]);
        libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), flags);
        libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), &raw const all);
        libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), &raw const none);
        match &what.stdio {
            Streams::Files(files) => {
                for (target, source) in (0..).zip(files) {
                    libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), source.as_raw_fd(), target);
                }
            }
            // The leader of a session without a terminal gets the first one it opens. The session is made before this.
            Streams::Terminal(path) => {
                libc::posix_spawn_file_actions_addopen(actions.as_mut_ptr(), 0, path.as_ptr(), libc::O_RDWR, 0);
                libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), 0, 1);
                libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), 0, 2);
            }
        }
        let code = libc::posix_spawn(
            &raw mut pid,
            what.program.as_ptr(),
            actions.as_ptr(),
            attributes.as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
        );
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        code
    };
    check(code)?;
    Pid::from_raw(pid).ok_or(Errno::CHILD)
}

fn null_terminated(strings: &[&CStr]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
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

fn full_signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initializes the set.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: only SIG_IGN and SIG_DFL are passed, so no handler of ours ever runs.
    unsafe { libc::signal(signal, disposition) };
}

fn check(code: i32) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code)) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
