//! Once: the shell before a task's program sees to it that Nomad starts the program once.
//!
//! A client agent that cannot find its task's process again, after its own restart or the
//! machine's, starts the task a second time in the same allocation, whatever `restart` says (2.0.5,
//! `client/allocrunner/taskrunner/task_runner.go`: `Restore`). So does `nomad alloc restart`. No
//! setting of Nomad's prevents it. So the shell leaves a file in the allocation's directory, which
//! survives both, and a shell that finds the file there ends in place of the program, and says so.

use crate::job::secrets::{self, Packed};

/// What a shell ends with that finds its program begun. The file that it leaves tells it from a
/// program's own exit code.
pub(crate) const BEGUN_BEFORE: i32 = 118;

/// Leaves the mark, or ends. Where no file can be made, nothing is known, and the program runs: an
/// allocation's events tell of a second start, too. The names of variables are such that no task
/// has them.
const ONCE: &str = r#"(set -C; : >"$NOMAD_ALLOC_DIR/.gofer-begun") 2>/dev/null || { [ -e "$NOMAD_ALLOC_DIR/.gofer-begun" ] && { printf again >"$NOMAD_ALLOC_DIR/gofer-exit.json"; exit 118; }; }
"#;

/// Becomes the supervisor (`$0`) where the node has it, which leaves the mark itself.
const SUPERVISE: &str = r#"[ -x "$0" ] && exec "$0" supervise -- "$@"
"#;

/// Becomes the program, found where Nomad's own executor finds it: in the task's directories, on
/// the task's path, on the system's. Where there is none, the file says what an exit code cannot.
const FIND: &str = r#"case $1 in
/*) [ -f "$1" ] && [ -x "$1" ] && exec "$@";;
*) for _gofer_dir in "$NOMAD_TASK_DIR" "$NOMAD_TASK_DIR/.."; do
[ -f "$_gofer_dir/$1" ] && [ -x "$_gofer_dir/$1" ] && { _gofer_dir=$_gofer_dir/$1; shift; exec "$_gofer_dir" "$@"; }
done
case $1 in */*) ;; *) command -v "$1" >/dev/null 2>&1 && exec "$@"
for _gofer_dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
[ -f "$_gofer_dir/$1" ] && [ -x "$_gofer_dir/$1" ] && { _gofer_dir=$_gofer_dir/$1; shift; exec "$_gofer_dir" "$@"; }
done;; esac;;
esac
printf 'not found: %s' "$1" >"$NOMAD_ALLOC_DIR/gofer-exit.json"; exit 127"#;

/// What the shell does before a task's program on the host.
pub(crate) fn of_task(packed: Option<&Packed>, supervised: bool) -> String {
    let supervise = if supervised { SUPERVISE } else { "" };
    format!("{}{supervise}{ONCE}{FIND}", secrets::load(packed))
}

/// The same for a service, which Nomad may start again. `None`: there is nothing to do.
pub(crate) fn of_service(packed: Option<&Packed>) -> Option<String> {
    let load = secrets::load(packed);
    (!load.is_empty()).then(|| format!("{load}{FIND}"))
}

/// The same in a container, for whose image the program was named.
pub(crate) fn of_container(
    packed: Option<&Packed>,
    is_task: bool,
    to_pipes: &str,
) -> Option<String> {
    let once = if is_task { ONCE } else { "" };
    let before = format!("{once}{to_pipes}{}", secrets::load(packed));
    (!before.is_empty()).then(|| format!("{before}exec \"$@\""))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;

    fn run(alloc: &Path, script: &str, words: &[&str]) -> Output {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "gofer"]).args(words).env_clear();
        let task = alloc.join("main/local");
        std::fs::create_dir_all(&task).unwrap();
        shell.env("NOMAD_ALLOC_DIR", alloc).env("NOMAD_TASK_DIR", task).output().unwrap()
    }

    fn left_in(alloc: &Path) -> Option<String> {
        std::fs::read_to_string(alloc.join("gofer-exit.json")).ok()
    }

    #[test]
    fn the_code_is_the_scripts() {
        assert!(ONCE.contains(&format!("exit {BEGUN_BEFORE};")));
    }

    #[test]
    fn a_program_is_started_once() {
        for script in [of_task(None, false), of_container(None, true, "").unwrap()] {
            let alloc = tempfile::tempdir().unwrap();
            let first = run(alloc.path(), &script, &["sh", "-c", "echo ran; exit 3"]);
            assert_eq!(
                (first.status.code(), &*first.stdout, &*first.stderr),
                (Some(3), &b"ran\n"[..], &b""[..])
            );
            assert_eq!(left_in(alloc.path()), None);
            let second = run(alloc.path(), &script, &["sh", "-c", "echo ran; exit 3"]);
            assert_eq!((second.status.code(), &*second.stdout), (Some(BEGUN_BEFORE), &b""[..]));
            assert_eq!(left_in(alloc.path()).as_deref(), Some("again"));
        }
        assert_eq!(of_container(None, false, ""), None);
        assert_eq!(of_service(None), None);
    }

    #[test]
    fn a_program_is_found_where_nomad_finds_it() {
        let alloc = tempfile::tempdir().unwrap();
        let program = |path: &str, mode: u32| {
            let path = alloc.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "#!/bin/sh\necho \"$1\"\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };

        program("main/local/tool", 0o755);
        program("main/bin/beside", 0o755);
        program("main/local/plain", 0o644);
        let absolute = alloc.path().join("main/local/tool");
        let found = |word: &str| {
            let _ = std::fs::remove_file(alloc.path().join(".gofer-begun"));
            let _ = std::fs::remove_file(alloc.path().join("gofer-exit.json"));
            run(alloc.path(), &of_task(None, false), &[word, "hi"])
        };

        for word in ["tool", "bin/beside", "echo", "/bin/echo", absolute.to_str().unwrap()] {
            let output = found(word);
            assert_eq!(
                (output.status.code(), &*output.stdout),
                (Some(0), &b"hi\n"[..]),
                "{word}: {output:?}"
            );
        }

        for word in ["gofer-no-such", "no/such", "/no/such", "plain", "/etc"] {
            assert_eq!(found(word).status.code(), Some(127), "{word}");
            assert_eq!(left_in(alloc.path()), Some(format!("not found: {word}")));
        }
    }
}
