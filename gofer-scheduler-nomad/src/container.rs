//! Tasks in docker containers whose program is a shell: what stands before it.
//!
//! Nomad reads a container's output from docker's log. Docker passes a line on when it has ended, replaces bytes that are no
//! UTF-8, and tells followers of the end without its last words; and Nomad ends its reader as soon as the container has ended,
//! whatever is still on the way. A shell can do better: it writes into the pipes that Nomad's log collector reads, which lie in
//! the allocation's directory, as the tasks of `exec` do. It needs nothing that is not in the image, since it is the task's own.

use gofer_core::scheduler::ExecutionSpec;

use crate::config::{ImageDriver, NomadConfig};
use crate::secrets::{self, Packed};

/// Shells by the name of their file.
const SHELLS: [&str; 4] = ["sh", "ash", "bash", "dash"];

/// Writes to Nomad's pipes where it may; another user than root may not, and then docker's log is what there is.
const TO_PIPES: &str = r#"l=$NOMAD_ALLOC_DIR/logs/.main
[ -p "$l.stdout.fifo" ] && [ -w "$l.stdout.fifo" ] && [ -p "$l.stderr.fifo" ] && [ -w "$l.stderr.fifo" ] && exec >"$l.stdout.fifo" 2>"$l.stderr.fifo"
"#;

/// The shell that is the program of a task in a docker container, if it is one.
pub(crate) fn shell<'a>(config: &NomadConfig, spec: &'a ExecutionSpec) -> Option<&'a str> {
    let in_docker = spec.image.is_some() && config.image_driver == ImageDriver::Docker;
    let program = spec.entrypoint.first().or(spec.command.first()).filter(|_| in_docker)?;
    let name = program.rsplit('/').next().unwrap_or(program);
    SHELLS.contains(&name).then_some(program)
}

/// What to run in place of a task's entrypoint and command: the same shell once more, and then they.
pub(crate) fn wrapped(shell: &str, spec: &ExecutionSpec, packed: Option<&Packed>) -> (Vec<String>, Vec<String>) {
    let from_files = packed.map(|packed| packed.from_files.as_slice()).unwrap_or_default();
    let script = format!("{TO_PIPES}{}", secrets::shell_script(from_files));
    let before = [shell, "-c", &script, "gofer"].map(str::to_owned);
    let (mut entrypoint, mut command) = (spec.entrypoint.clone(), spec.command.clone());
    let first = if entrypoint.is_empty() { &mut command } else { &mut entrypoint };
    first.splice(0..0, before);
    (entrypoint, command)
}
