//! The script that is the command: it says when the real one begins and ends, and sweeps up.

use std::fmt::Write as _;

use gofer_core::exec::ExecRequest;

use crate::job::secrets;

/// Kills whatever carries the mark, until nothing does. What looks carries none itself, and what is
/// dead has no environment. One GNU `grep` reads a whole machine's; that of a small image stops at
/// the first NUL, but there is not much to read there.
pub(crate) const SWEEP: &str = r#"marked() { case $(grep --version 2>&1) in *GNU*) grep -ls "GOFER_EXEC_SESSION=$id" /proc/[0-9]*/environ;; *) for p in /proc/[0-9]*/environ; do tr '\0' '\n' 2>/dev/null < $p | grep -q "GOFER_EXEC_SESSION=$id" && echo $p; done 2>/dev/null;; esac; }
left=20; while [ $left -gt 0 ]; do left=$((left - 1)); found=$(marked); [ -n "$found" ] || left=0
for p in $found; do p=${p#/proc/}; kill -9 ${p%/environ} 2>/dev/null; done; done"#;

/// Sweeps when the script, or Nomad's process that started it, has gone. In a container that is
/// process 0: its own group.
const WATCH: &str = r#"( trap '' HUP INT QUIT TERM; while kill -0 $$ && kill -0 $PPID; do sleep 1; done; sweep ) </dev/null >/dev/null 2>&1 &
watcher=$!
"#;

/// Nomad hands out nothing more of a command in a container once docker says that it has ended,
/// wherever the rest may be: so the script says where the rest ends, and waits until it is swept
/// away, which says that all has come.
const WAIT: &str = r#"{ env GOFER_EXEC_SESSION="$id" sleep 300; } >/dev/null 2>&1 </dev/null
"#;

/// The command as it is given to Nomad.
pub(crate) fn script(mark: &str, request: &ExecRequest, in_container: bool) -> Vec<String> {
    let mut script = String::from(
        "id=$0\ncommand -v \"$1\" >/dev/null 2>&1 || { printf %s- \"$id\"; exit 127; }\n",
    );
    script.push_str(&format!("sweep() {{ {SWEEP}; }}\n{WATCH}"));

    if let Some(size) = request.terminal {
        // Nomad's own word about the size comes at any time, and the keys Ctrl-C and Ctrl-\ are for
        // the command.
        let _ = writeln!(
            script,
            "stty rows {} cols {} 2>/dev/null; trap : INT QUIT",
            size.rows, size.columns
        );
        script.push_str("[ -n \"$TERM\" ] || { TERM=xterm; export TERM; }\n");
    }

    // In a shell of its own: no secret has the name of a variable that is used here.
    let load = secrets::LOAD_IF_THERE;
    let _ = writeln!(
        script,
        "printf %s+ \"$id\"\n({load}; exec env GOFER_EXEC_SESSION=\"$0\" \"$@\")\ncode=$?"
    );
    script.push_str("kill -9 $watcher; sweep\n");
    if in_container || request.terminal.is_none() {
        script.push_str("printf %s= \"$id\"\n");
    }

    if in_container {
        script.push_str("[ -t 2 ] || printf %s= \"$id\" >&2\n");
        script.push_str(WAIT);
    }

    script.push_str("exit $code");
    let words = ["/bin/sh", "-c", &script, mark].map(str::to_owned);
    words.into_iter().chain(request.command.iter().cloned()).collect()
}
