//! From what the user names (a folder, a program, a file, stdin) to a pipeline's spec.

mod cargo;
mod decode;
mod foreign;
mod program;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use gofer_proto::v1::PipelineSpec;
use tokio::io::AsyncReadExt as _;

use crate::errors::Failure;
use crate::interrupts::Interrupts;

/// Most bytes a spec may have before it is even decoded; the contract's own limit (3 MiB encoded)
/// is smaller, but JSON is longer than protobuf.
const MAX_SPEC_BYTES: u64 = 16 << 20;

/// Where a pipeline's spec comes from.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The pipeline: a folder with a Cargo.toml (compiled and run), a program (run), a file with
    /// the spec as protobuf or JSON, or `-` for such a spec on stdin
    #[arg(value_name = "DIR|FILE|-")]
    pub(crate) source: PathBuf,
    /// Which program of the folder to run, when it has several
    #[arg(long, value_name = "NAME")]
    bin: Option<String>,
    /// How long compiling and running the pipeline program may take, for example `90s` or `10m`
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    compile_timeout: Duration,
}

/// Compiles and runs what is to be compiled and run, and decodes the spec.
///
/// # Errors
/// Wrong use, with the compiler's or the program's own output already on stderr; and a signal.
pub(crate) async fn spec(
    source: &Source,
    interrupts: &mut Interrupts,
) -> Result<PipelineSpec, Failure> {
    let limit = source.compile_timeout;
    // Whichever comes first: dropped, the compiler or the program is killed.
    let compiled = tokio::time::timeout(limit, spec_bytes(source));
    interrupts
        .unless_interrupted(async { compiled.await.unwrap_or_else(|_| Err(too_slow(limit))) })
        .await
}

fn too_slow(limit: Duration) -> Failure {
    Failure::usage(format!(
        "the pipeline was not compiled within {}",
        humantime::format_duration(limit)
    ))
    .hint("allow more with `--compile-timeout`, for example `--compile-timeout 30m`")
}

async fn spec_bytes(source: &Source) -> Result<PipelineSpec, Failure> {
    let path = source.source.as_path();
    if path == Path::new("-") {
        let bytes = read_bounded(tokio::io::stdin(), "stdin").await?;
        return decode::spec(&bytes, "stdin");
    }

    let shown = format!("`{}`", path.display());
    let meta = tokio::fs::metadata(path)
        .await
        .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
    if meta.is_dir() {
        return folder(path, source.bin.as_deref()).await;
    }

    if meta.permissions().mode() & 0o111 != 0
        && let Some(bytes) = program::stdout_of(&absolute(path)?, None).await?
    {
        return decode::spec(&bytes, &format!("the program {shown}"));
    }

    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;

    decode::spec(&read_bounded(file, &shown).await?, &shown)
}

async fn folder(dir: &Path, bin: Option<&str>) -> Result<PipelineSpec, Failure> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(Failure::usage(format!(
            "`{}` is not a pipeline's folder: it has no `Cargo.toml`",
            dir.display()
        ))
        .hint(
            "name a folder with a Rust program, a program, a file with the spec as protobuf \
                   or JSON, or `-`",
        ));
    }

    let dir = absolute(dir)?;
    let program = cargo::build(&dir, bin).await?;
    let bytes = program::stdout_of(&program, Some(&dir)).await?.ok_or_else(|| {
        Failure::usage(format!("`{}` was compiled for another kind of machine", program.display()))
            .hint("remove `build.target` from the cargo configuration of the pipeline's folder")
    })?;

    decode::spec(&bytes, &format!("the program of `{}`", dir.display()))
}

/// The whole of a stream, up to the limit.
async fn read_bounded(
    reader: impl tokio::io::AsyncRead + Unpin,
    name: &str,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_SPEC_BYTES + 1).read_to_end(&mut bytes).await;
    read.map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > MAX_SPEC_BYTES { Err(too_long(name)) } else { Ok(bytes) }
}

fn too_long(name: &str) -> Failure {
    Failure::usage(format!("{name} gave more than 16 MiB, which is no pipeline spec"))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("cannot find `{}`: {error}", path.display())))
}
