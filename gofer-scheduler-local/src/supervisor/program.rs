//! Which file a command means, and what to tell the user when there is none.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gofer_core::scheduler::{ExecutionState, FailureKind};
use rustix::fs::{Access, FileType, access, stat};
use rustix::io::Errno;

use crate::sys::{SpawnError, Step};

/// Finds the program as a shell would: a name with `/` is a path from the working directory (which
/// must be the current one), any other is looked for in the task's own `PATH`.
pub(super) fn find(name: &CStr, env: &[&CStr]) -> Result<CString, ExecutionState> {
    if name.to_bytes().contains(&b'/') {
        return Ok(name.to_owned());
    }

    let shown = name.to_string_lossy();
    let Some(path) = env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH=")) else {
        let message = format!(
            "command `{shown}` was not found: the task has no `PATH`; name the program by its full \
             path"
        );
        return Err(not_found(message));
    };

    let mut seen: Option<String> = None;
    if !name.is_empty() {
        for directory in path.split(|&byte| byte == b':') {
            let directory = if directory.is_empty() { b"." } else { directory };
            let candidate = [directory, b"/", name.to_bytes()].concat();
            let Ok(candidate) = CString::new(candidate) else { continue };

            match stat(&candidate) {
                Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {
                    if access(&candidate, Access::EXEC_OK).is_ok() {
                        return Ok(candidate);
                    }
                    seen.get_or_insert_with(|| candidate.to_string_lossy().into_owned());
                }
                _ => {}
            }
        }
    }

    let path = String::from_utf8_lossy(path);
    Err(not_found(match seen {
        Some(file) => format!(
            "command `{shown}` cannot be executed: `{file}` may not be executed by this user"
        ),
        None => format!("command `{shown}` was not found in the task's PATH `{path}`"),
    }))
}

/// What a failed start means for the user.
pub(super) fn failure(program: &CStr, SpawnError { step, errno }: SpawnError) -> ExecutionState {
    let shown = program.to_string_lossy();
    if step != Step::Exec {
        return setup(format!(
            "command `{shown}` could not be started: {}: {errno}",
            step.describe()
        ));
    }

    match errno {
        Errno::NOENT if Path::new(std::ffi::OsStr::from_bytes(program.to_bytes())).exists() => {
            not_found(format!(
                "command `{shown}` cannot be executed: the interpreter it names does not exist"
            ))
        }
        Errno::NOENT | Errno::NOTDIR => {
            not_found(format!("command `{shown}` was not found: there is no such file"))
        }
        Errno::ACCESS | Errno::PERM => not_found(format!(
            "command `{shown}` cannot be executed: it is not a file that this user may execute"
        )),
        Errno::NOEXEC => not_found(format!(
            "command `{shown}` cannot be executed: it is neither a program for this machine nor a \
             script with a `#!` line"
        )),
        Errno::TOOBIG => setup(
            "the arguments and the environment together are longer than the kernel takes; pass \
             large values as objects",
        ),
        error => setup(format!("command `{shown}` could not be started: {error}")),
    }
}

/// A failure on the way to the program.
pub(super) fn setup(message: impl Into<String>) -> ExecutionState {
    ExecutionState::Failed { kind: FailureKind::Setup, message: message.into() }
}

fn not_found(message: String) -> ExecutionState {
    ExecutionState::Failed { kind: FailureKind::CommandNotFound, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: &ExecutionState) -> &str {
        match state {
            ExecutionState::Failed { kind: FailureKind::CommandNotFound, message } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_looked_up_in_the_tasks_path_only() {
        assert_eq!(find(c"sh", &[c"A=b", c"PATH=/nowhere:/bin"]).unwrap().as_c_str(), c"/bin/sh");
        assert_eq!(find(c"./x", &[]).unwrap().as_c_str(), c"./x");
        let missing = find(c"no-such-command", &[c"PATH=/bin"]).unwrap_err();
        assert_eq!(
            message(&missing),
            "command `no-such-command` was not found in the task's PATH `/bin`"
        );
        assert!(message(&find(c"sh", &[]).unwrap_err()).contains("has no `PATH`"));
        assert!(message(&find(c"", &[c"PATH=/bin"]).unwrap_err()).contains("was not found"));
        assert!(
            message(&find(c"passwd", &[c"PATH=/etc"]).unwrap_err())
                .contains("`/etc/passwd` may not be executed")
        );
    }

    fn failed(program: &CStr, errno: Errno) -> ExecutionState {
        failure(program, SpawnError { step: Step::Exec, errno })
    }

    #[test]
    fn errors_say_what_to_do() {
        let directory =
            failure(c"/bin/sh", SpawnError { step: Step::Directory, errno: Errno::ACCESS });
        assert!(
            matches!(directory, ExecutionState::Failed { kind: FailureKind::Setup, .. }),
            "{directory:?}"
        );
        assert!(message(&failed(c"/no/such", Errno::NOENT)).contains("no such file"));
        assert!(message(&failed(c"/bin/sh", Errno::NOENT)).contains("interpreter"));
        assert!(matches!(
            failed(c"/bin/sh", Errno::TOOBIG),
            ExecutionState::Failed { kind: FailureKind::Setup, .. }
        ));
    }
}
