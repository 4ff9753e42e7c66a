//! Builds a folder's Rust program. Building and running are two steps, because `cargo run` ends
//! with 101 both when the compiler and when the program fails.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::process::Command;

use super::foreign::Foreign;
use crate::errors::Failure;

/// Longest message of cargo: they hold a list of files, or what the compiler said of one place.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// What cargo says of one thing it has built; other messages have none of these fields.
#[derive(Debug, Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    target: Option<Target>,
    manifest_path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the folder's program and says where it is. Diagnostics, and on a terminal the progress,
/// go to stderr.
pub(super) async fn build(dir: &Path, bin: Option<&str>) -> Result<PathBuf, Failure> {
    let mut command = Command::new("cargo");
    command.arg("build").arg("--message-format=json-render-diagnostics");
    command.arg("--manifest-path").arg(dir.join("Cargo.toml")).current_dir(dir);

    match bin {
        Some(bin) => command.args(["--bin", bin]),
        None => command.arg("--bins"),
    };

    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }

    let running = Foreign::start(&mut command).map_err(|error| {
        Failure::usage(format!("cannot start `cargo` to compile `{}`: {error}", dir.display()))
            .hint("install Rust, or compile the pipeline elsewhere and name its program")
    })?;

    let mut messages = Messages::default();
    let status = running.until_exit(|piece| messages.take(piece)).await?;
    if !status.success() {
        return Err(Failure::usage(format!(
            "`{}` does not compile; what the compiler said is above",
            dir.display()
        )));
    }

    only(messages.programs, dir)
}

/// What cargo prints: one JSON object per line.
#[derive(Default)]
struct Messages {
    unfinished: Vec<u8>,
    programs: Vec<(String, PathBuf)>,
}

impl Messages {
    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(part);
            if self.unfinished.len() > MAX_MESSAGE_BYTES {
                return Err(Failure::usage(
                    "`cargo` printed a line of more than 16 MiB; is it the right program?",
                ));
            }
            if part.ends_with(b"\n") {
                self.message();
            }
        }
        Ok(())
    }

    fn message(&mut self) {
        let line = std::mem::take(&mut self.unfinished);
        let Ok(artifact) = serde_json::from_slice::<Artifact>(&line) else { return };
        if let (Some(executable), Some(target), Some(_)) =
            (artifact.executable, artifact.target, artifact.manifest_path)
            && target.kind.iter().any(|kind| kind == "bin")
        {
            self.programs.push((target.name, executable));
        }
    }
}

fn only(mut programs: Vec<(String, PathBuf)>, dir: &Path) -> Result<PathBuf, Failure> {
    match (programs.pop(), programs.len()) {
        (Some((_, program)), 0) => Ok(program),
        (None, _) => Err(Failure::usage(format!(
            "`{}` has no program that could print a pipeline",
            dir.display()
        ))
        .hint("add a `src/main.rs` that builds and prints one")),
        (Some((last, _)), _) => {
            let names: Vec<_> =
                programs.iter().map(|(name, _)| name.as_str()).chain([last.as_str()]).collect();
            Err(Failure::usage(format!(
                "`{}` has several programs: {}",
                dir.display(),
                names.join(", ")
            ))
            .hint(format!("choose one, for example with `--bin {}`", names[0])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_programs_are_listed() {
        let programs =
            vec![("a".to_owned(), PathBuf::from("/a")), ("b".to_owned(), PathBuf::from("/b"))];
        let text = only(programs, Path::new("/dir")).expect_err("two").render();
        assert_eq!(
            text,
            "error: `/dir` has several programs: a, b\nhint: choose one, for example with `--bin \
             a`\n"
        );
    }
}
