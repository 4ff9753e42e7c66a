//! Tasks in containers: the shell that stands before their program.
//!
//! It sees to it that the program is started once, and reads its secrets; and in docker it takes
//! the output past docker's log. Nomad reads a container's output from there, and docker passes a
//! line on when it has ended, replaces bytes that are no UTF-8, and tells followers of the end
//! without its last words; and Nomad ends its reader as soon as the container has ended, whatever
//! is still on the way. A shell can do better: it writes into the pipes that Nomad's log collector
//! reads, which lie in the allocation's directory, as the tasks of `exec` do. It needs nothing that
//! is not in the image.

use gofer_core::scheduler::{ExecutionKind, ExecutionSpec};

use crate::config::{ImageDriver, NomadConfig};
use crate::job::guard;
use crate::job::secrets::Packed;

/// Shells by the name of their file.
const SHELLS: [&str; 4] = ["sh", "ash", "bash", "dash"];

/// Writes to Nomad's pipes where it may; another user than root may not, and then docker's log is
/// what there is.
const TO_PIPES: &str = r#"l=$NOMAD_ALLOC_DIR/logs/.main
[ -p "$l.stdout.fifo" ] && [ -w "$l.stdout.fifo" ] && [ -p "$l.stderr.fifo" ] && [ -w "$l.stderr.fifo" ] && exec >"$l.stdout.fifo" 2>"$l.stderr.fifo"
"#;

/// The shell that goes before the program of a task in a container: the program itself if it is
/// one, else the one that every image is said to have. Of a task that leaves its program to the
/// image, nobody knows it.
pub(crate) fn shell<'a>(config: &'a NomadConfig, spec: &'a ExecutionSpec) -> Option<&'a str> {
    let program =
        spec.entrypoint.first().or(spec.command.first()).filter(|_| spec.image.is_some())?;
    if is_shell(program) { Some(program) } else { config.image_shell.as_deref() }
}

fn is_shell(program: &str) -> bool {
    SHELLS.contains(&program.rsplit('/').next().unwrap_or(program))
}

/// What to run in place of a task's entrypoint and command: the shell, and then they; as they are,
/// where there is nothing for a shell to do. The image's own entrypoint stays before a command that
/// is a shell; before any other it would have to know what to do with one.
pub(crate) fn wrapped(
    config: &NomadConfig,
    spec: &ExecutionSpec,
    packed: Option<&Packed>,
) -> (Vec<String>, Vec<String>) {
    let (mut entrypoint, mut command) = (spec.entrypoint.clone(), spec.command.clone());
    // Podman's log has everything.
    let to_pipes = if config.image_driver == ImageDriver::Docker { TO_PIPES } else { "" };
    let script = guard::of_container(packed, spec.kind == ExecutionKind::Task, to_pipes);
    let (Some(shell), Some(script)) = (shell(config, spec), script) else {
        return (entrypoint, command);
    };
    let before = [shell, "-c", &script, "gofer"].map(str::to_owned);
    let by_the_image =
        entrypoint.is_empty() && command.first().is_some_and(|program| is_shell(program));
    let first = if by_the_image { &mut command } else { &mut entrypoint };
    first.splice(0..0, before);
    (entrypoint, command)
}
