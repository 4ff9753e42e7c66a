//! Starting a program with less than this process has.
//!
//! What a task must not have is given up between the clone and the exec, where posix_spawn offers
//! nothing of the kind. The child shares this process's memory until the exec, as posix_spawn's
//! does, which is several times faster than a fork: so it makes system calls only, allocates
//! nothing, and cannot panic. Two kinds of children get memory of their own. One that becomes
//! another user could otherwise look for a way into this process through it. And one with a cgroup
//! is born there: a process that moves into a cgroup makes the kernel wait for all processors,
//! often 20 ms, in which no other process moves, starts or ends.

use std::convert::Infallible;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::{Errno, Result};
use rustix::process::{Pid, WaitOptions, setrlimit, waitpid};

use super::{last_error, shared_counter};
use crate::confinement::{Confinement, Entrance, Limit, User};

/// Far more than the child's few calls take.
const STACK_BYTES: usize = 64 * 1024;

/// `CLONE_INTO_CGROUP`, which does not fit the type that libc has for flags of clone.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The highest number of a signal.
const LAST_SIGNAL: c_int = 64;

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
    /// What it loses.
    pub(crate) bounds: Bounds<'a>,
}

/// Where three standard streams lead.
pub(crate) enum Streams<'a> {
    /// To these descriptors.
    Files([BorrowedFd<'a>; 3]),
    /// All to this terminal, which becomes the session's own.
    Terminal(&'a CStr),
}

/// What a new process loses before it executes anything.
#[derive(Default)]
pub(crate) struct Bounds<'a> {
    /// Its limits, in place of this process's.
    pub(crate) limits: &'a [Limit],
    /// The way into its cgroup.
    pub(crate) cgroup: Option<&'a Entrance>,
    /// Whom it becomes.
    pub(crate) user: Option<&'a User>,
    /// The Landlock ruleset that it is under.
    pub(crate) ruleset: Option<BorrowedFd<'a>>,
    /// Capabilities that it does not get back by an exec.
    pub(crate) without: &'static [c_int],
}

/// Either lets root read the memory and the environment of every process, past what Landlock says
/// (`may_access_mm` of Linux 6.18). The first is also what mounting takes, which Landlock forbids
/// wherever it closes files.
const READS_ALL_MEMORY: [c_int; 2] = [21, 38];

impl<'a> Bounds<'a> {
    /// Those of an execution, with what was opened for it.
    pub(crate) fn of(
        confinement: &'a Confinement,
        cgroup: Option<&'a Entrance>,
        ruleset: Option<&'a OwnedFd>,
    ) -> Self {
        let closes_files =
            confinement.landlock.as_ref().is_some_and(|landlock| !landlock.protected.is_empty());
        Self {
            limits: &confinement.limits,
            cgroup,
            user: confinement.user.as_ref(),
            ruleset: ruleset.map(OwnedFd::as_fd),
            without: if closes_files && confinement.user.is_none() {
                &READS_ALL_MEMORY
            } else {
                &[]
            },
        }
    }
}

/// On the way to what a process did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// No process could be made.
    Clone,
    /// A session of its own.
    Session,
    /// The standard streams.
    Streams,
    /// A limit.
    Limits,
    /// Its cgroup.
    Cgroup,
    /// The capabilities that it loses.
    Capabilities,
    /// Its user.
    User,
    /// The working directory, as that user.
    Directory,
    /// Landlock.
    Landlock,
    /// The program itself.
    Exec,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Clone,
        Self::Session,
        Self::Streams,
        Self::Limits,
        Self::Cgroup,
        Self::Capabilities,
        Self::User,
        Self::Directory,
        Self::Landlock,
        Self::Exec,
    ];

    /// What failed, for people.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Clone => "a process could not be made",
            Self::Session => "a session could not be made",
            Self::Streams => "its standard streams could not be opened",
            Self::Limits => "its limits could not be set",
            Self::Cgroup => "its cgroup could not be entered",
            Self::Capabilities => "its capabilities could not be dropped",
            Self::User => "its user could not be taken on",
            Self::Directory => "the working directory may not be entered by its user",
            Self::Landlock => "Landlock did not take its rules",
            Self::Exec => "the program could not be executed",
        }
    }
}

/// Why there is no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpawnError {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
}

/// Starts processes; one per process that does. It keeps what each start needs.
pub(crate) struct Spawner {
    stack: Vec<u8>,
    /// Where a child says what failed: the step and the error, 0 if nothing did.
    report: &'static AtomicU32,
}

impl Spawner {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { stack: vec![0; STACK_BYTES], report: shared_counter()? })
    }

    /// Starts a process in a new session (and so a new process group), with every signal at its
    /// default and none blocked. Every other descriptor of ours is CLOEXEC. The call returns once
    /// the program is executed, or was not.
    pub(crate) fn spawn(&mut self, what: &Spawn<'_>) -> std::result::Result<Pid, SpawnError> {
        let (argv, env) = (null_terminated(what.argv), null_terminated(what.env));
        self.report.store(0, Ordering::SeqCst);
        let child = Child { what, argv: argv.as_ptr(), env: env.as_ptr(), report: self.report };
        let failed = |step, errno| SpawnError { step, errno };
        let nursery = what.bounds.cgroup.filter(|entrance| entrance.by_birth);
        let born = nursery.map(|to| clone_into(to.dir.as_fd(), || child.run_or_report()));
        let pid = match born {
            Some(Ok(pid)) => pid.as_raw_pid(),
            // The kernel is too old, or forbids it: then it moves there.
            Some(Err(_)) | None => self.clone(&child),
        };

        if pid < 0 {
            return Err(failed(Step::Clone, last_error()));
        }

        let pid = Pid::from_raw(pid).ok_or(failed(Step::Clone, Errno::CHILD))?;

        match self.report.load(Ordering::SeqCst) {
            0 => Ok(pid),
            report => {
                let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
                let step = Step::ALL.get((report >> 16) as usize).copied().unwrap_or(Step::Clone);
                Err(failed(step, Errno::from_raw_os_error((report & 0xffff).cast_signed())))
            }
        }
    }

    /// The number of a new process, or a negative one for an error.
    fn clone(&mut self, child: &Child<'_>) -> c_int {
        let shares_memory = match child.what.bounds.user {
            Some(_) => 0,
            None => libc::CLONE_VM,
        };

        let top = self.stack.as_mut_ptr().wrapping_add(STACK_BYTES);
        // SAFETY: the child runs `run_child` on a stack of its own, which grows down from its end,
        // aligned to 16 bytes. This process has one thread, which CLONE_VFORK holds until the child
        // has executed its program or is gone: everything that `child` refers to outlives its use.
        unsafe {
            let top = top.wrapping_sub(top.addr() % 16).cast::<c_void>();
            let flags = shares_memory | libc::CLONE_VFORK | libc::SIGCHLD;
            libc::clone(move_and_run, top, flags, ptr::from_ref(child).cast_mut().cast())
        }
    }
}

/// Starts a process in this cgroup, with memory of its own. The call returns once the process has
/// executed a program or is gone; `child` makes system calls only.
///
/// # Errors
/// The kernel's, `ENOSYS` and `EPERM` where it is too old or forbids it. Then there is no process.
fn clone_into(cgroup: BorrowedFd<'_>, child: impl FnOnce()) -> Result<Pid> {
    // SAFETY: numbers, for which zero is "nothing".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP | u64::from(libc::CLONE_VFORK.unsigned_abs());
    args.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    args.cgroup = cgroup.as_raw_fd().unsigned_abs().into();

    // SAFETY: the arguments outlive the call. Without CLONE_VM the child has a copy of this thread
    // and its stack, as after a fork, and never returns from here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match i32::try_from(pid) {
        Ok(0) => {
            child();
            super::exit_now(127)
        }
        Ok(pid) => Pid::from_raw(pid).ok_or_else(last_error),
        Err(_) => Err(last_error()),
    }
}

/// Whether processes of this one can be born in this cgroup. Any process may ask, whatever threads
/// it has.
pub(crate) fn can_be_born_in(cgroup: BorrowedFd<'_>) -> bool {
    clone_into(cgroup, || super::exit_now(0)).is_ok_and(|pid| {
        let waited = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
        matches!(waited, Ok(Some((_, status))) if status.exit_status() == Some(0))
    })
}

/// What the child does, or what it failed at and why.
type Attempt<T> = std::result::Result<T, (Step, Errno)>;

/// What the child sees of its parent's memory.
struct Child<'a> {
    what: &'a Spawn<'a>,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    report: &'static AtomicU32,
}

extern "C" fn move_and_run(argument: *mut c_void) -> c_int {
    // SAFETY: `Spawner::spawn` passes a `Child`, and its memory stays as it is until this process
    // has executed or ended.
    let child = unsafe { &*argument.cast::<Child<'_>>() };
    match child.move_into_cgroup() {
        Ok(()) => child.run_or_report(),
        Err(failed) => child.report(failed),
    }
    super::exit_now(127)
}

impl Child<'_> {
    /// Comes back only when something failed, and was reported.
    fn run_or_report(&self) {
        let Err(failed) = self.run();
        self.report(failed);
    }

    fn report(&self, (step, errno): (Step, Errno)) {
        let errno = errno.raw_os_error().cast_unsigned();
        self.report.store((step as u32) << 16 | (errno & 0xffff), Ordering::SeqCst);
    }

    fn move_into_cgroup(&self) -> Attempt<()> {
        let Some(cgroup) = self.what.bounds.cgroup else { return Ok(()) };
        // SAFETY: literals that outlive the calls. `0` is the process that writes.
        unsafe {
            let name = c"cgroup.procs".as_ptr();
            let flags = libc::O_WRONLY | libc::O_CLOEXEC;
            let procs = libc::openat(cgroup.dir.as_raw_fd(), name, flags);
            check(Step::Cgroup, procs)?;
            let written = libc::write(procs, b"0".as_ptr().cast(), 1);
            check(Step::Cgroup, if written == 1 { 0 } else { -1 })
        }
    }

    /// Comes back only with what failed.
    fn run(&self) -> Attempt<Infallible> {
        let bounds = &self.what.bounds;
        reset_dispositions();

        // SAFETY: no preconditions.
        check(Step::Session, unsafe { libc::setsid() })?;
        self.open_streams()?;
        for limit in bounds.limits {
            setrlimit(limit.resource, limit.values).map_err(|errno| (Step::Limits, errno))?;
        }

        for &capability in bounds.without {
            drop_capability(capability)?;
        }

        if let Some(user) = bounds.user {
            become_user(user)?;
        }

        if bounds.user.is_some() || bounds.ruleset.is_some() {
            // SAFETY: no pointers.
            check(Step::Landlock, unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        }

        if let Some(ruleset) = bounds.ruleset {
            // SAFETY: no pointers. It binds this process alone, and what comes of it.
            let bound =
                unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
            check_long(Step::Landlock, bound)?;
        }

        // SAFETY: the set is initialized; the old mask is not asked for. The arrays end with a null
        // pointer, and their strings outlive the call.
        unsafe {
            let none = super::signal_set(&[]);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::execve(self.what.program.as_ptr(), self.argv, self.env);
        }

        Err((Step::Exec, last_error()))
    }

    fn open_streams(&self) -> Attempt<()> {
        // SAFETY: descriptors and a path that outlive the calls. A descriptor below 3 cannot be a
        // source: this process has /dev/null there. The leader of a session without a terminal gets
        // the first one it opens.
        unsafe {
            match &self.what.stdio {
                Streams::Files(files) => {
                    for (target, source) in (0..).zip(files) {
                        check(Step::Streams, libc::dup2(source.as_raw_fd(), target))?;
                    }
                }
                Streams::Terminal(path) => {
                    let terminal = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
                    check(Step::Streams, terminal)?;
                    for target in 0..3 {
                        check(Step::Streams, libc::dup2(terminal, target))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A process that has not got it, and a kernel that does not know it, are as good.
fn drop_capability(number: c_int) -> Attempt<()> {
    // SAFETY: numbers only.
    unsafe {
        if libc::geteuid() != 0 || libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) != 1 {
            return Ok(());
        }
        check(Step::Capabilities, libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0))
    }
}

/// By bare system calls: the C library's functions would tell this process's other threads, and the
/// memory may be the parent's.
fn become_user(user: &User) -> Attempt<()> {
    let (uid, gid) = (user.uid, user.gid);
    // SAFETY: the groups outlive the call; the others take numbers. `.` is a literal.
    unsafe {
        check_long(
            Step::User,
            libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()),
        )?;
        check_long(Step::User, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check_long(Step::User, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        check(Step::Directory, libc::chdir(c".".as_ptr()))
    }
}

/// The child has its own table of them, which execve would keep as far as signals are ignored.
fn reset_dispositions() {
    for signal in 1..=LAST_SIGNAL {
        // The C library keeps two to itself, and nobody may have SIGKILL and SIGSTOP: refused, as
        // they should be.
        super::set_disposition(signal, libc::SIG_DFL);
    }
}

fn check(step: Step, result: c_int) -> Attempt<()> {
    if result < 0 { Err((step, last_error())) } else { Ok(()) }
}

fn check_long(step: Step, result: c_long) -> Attempt<()> {
    if result < 0 { Err((step, last_error())) } else { Ok(()) }
}

fn null_terminated(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}
