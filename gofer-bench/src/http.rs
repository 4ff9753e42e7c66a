//! The bare client's connections.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// How long one answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client that keeps its connections; of no proxy, since it is to be compared with a server that
/// asks none.
pub(crate) fn client() -> Result<reqwest::Client> {
    // The first caller has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .build()?)
}

/// The content of a file of one token, or of one key.
pub(crate) fn secret(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read `{}`", file.display()))?;
    Ok(text.trim_end().to_owned())
}

/// A text as TOML has it.
pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// An absolute path as TOML has it.
pub(crate) fn quoted_path(path: &Path) -> Result<String> {
    let path = path.canonicalize().with_context(|| format!("no file `{}`", path.display()))?;
    Ok(quoted(path.to_str().context("a path is not UTF-8")?))
}
