//! Builds a folder's Rust program. Building and running are two steps, because `cargo run` ends with 101 both when the
//! compiler and when the program fails.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::errors::Failure;

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

/// Builds the folder's program and says where it is. Diagnostics, and on a terminal the progress, go to stderr.
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
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        Failure::usage(format!("cannot start `cargo` to compile `{}`: {error}", dir.display()))
            .hint("install Rust, or compile the pipeline elsewhere and name its program")
    })?;
    let programs = artifacts(child.stdout.take().expect("stdout is piped")).await?;
    let status = child.wait().await.map_err(|error| Failure::usage(format!("cannot wait for `cargo`: {error}")))?;
    if !status.success() {
        return Err(Failure::usage(format!("`{}` does not compile; what the compiler said is above", dir.display())));
    }
    only(programs, dir)
}

async fn artifacts(stdout: tokio::process::ChildStdout) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut lines = BufReader::new(stdout).lines();
    let mut programs = Vec::new();
    loop {
        let line = lines.next_line().await.map_err(|error| Failure::usage(format!("cannot read `cargo`: {error}")))?;
        let Some(line) = line else { return Ok(programs) };
        let Ok(artifact) = serde_json::from_str::<Artifact>(&line) else { continue };
        if let (Some(executable), Some(target), Some(_)) =
            (artifact.executable, artifact.target, artifact.manifest_path)
            && target.kind.iter().any(|kind| kind == "bin")
        {
            programs.push((target.name, executable));
        }
    }
}

fn only(mut programs: Vec<(String, PathBuf)>, dir: &Path) -> Result<PathBuf, Failure> {
    match (programs.pop(), programs.len()) {
        (Some((_, program)), 0) => Ok(program),
        (None, _) => Err(Failure::usage(format!("`{}` has no program that could print a pipeline", dir.display()))
            .hint("add a `src/main.rs` that builds and prints one")),
        (Some((last, _)), _) => {
            let names: Vec<_> = programs.iter().map(|(name, _)| name.as_str()).chain([last.as_str()]).collect();
            Err(Failure::usage(format!("`{}` has several programs: {}", dir.display(), names.join(", ")))
                .hint(format!("choose one, for example with `--bin {}`", names[0])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_programs_are_listed() {
        let programs = vec![("a".to_owned(), PathBuf::from("/a")), ("b".to_owned(), PathBuf::from("/b"))];
        let text = only(programs, Path::new("/dir")).expect_err("two").render();
        assert_eq!(text, "error: `/dir` has several programs: a, b\nhint: choose one, for example with `--bin a`\n");
    }
}
