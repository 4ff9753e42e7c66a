//! How many files, and so connections, this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but connections: the database, logs, the launch of tasks.
const RESERVED_FILES: usize = 256;
/// Most connections without a configured limit: each takes some 50 KiB of memory when it does
/// nothing.
const CONNECTIONS_MAX: usize = 10_000;
/// The limit where the system knows none.
const UNLIMITED_FILES: u64 = 1 << 20;

/// Raises the limit of open files as far as this process may.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Connections of a server without a configured limit.
pub(super) fn default_connections() -> usize {
    connections_of(files()).min(CONNECTIONS_MAX)
}

/// The configured number, or as many as this process can have.
pub(super) fn within_open_files(wanted: usize) -> usize {
    let possible = connections_of(files());
    if wanted > possible {
        tracing::warn!(
            wanted,
            possible,
            "limits.connections: the limit of open files (`ulimit -n`, `LimitNOFILE=`) leaves room \
             for fewer"
        );
    }
    wanted.min(possible)
}

fn files() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED_FILES);
    usize::try_from(files).unwrap_or(usize::MAX)
}

/// All files but the reserve, or three of four where that is less.
fn connections_of(files: usize) -> usize {
    files.saturating_sub(RESERVED_FILES).min(files / 4 * 3).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_server_has_files_left() {
        for (files, connections) in [(64, 16), (1024, 768), (4096, 3072), (1 << 20, 786_432)] {
            assert_eq!(connections_of(files), connections, "{files} files");
        }
    }
}
