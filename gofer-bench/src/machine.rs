//! The machine that the figures were measured on. Without it they mean nothing.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::stats::Summary;

/// How many writes the disk is asked for.
const SYNCS: usize = 200;
/// A page of SQLite's log.
pub(crate) const SYNC_BYTES: usize = 4096;

#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    memory_mib: u64,
    /// The kernel's averages of runnable tasks over 1, 5 and 15 minutes, before anything was
    /// measured. Other work on the machine slows both sides, but not by the same factor.
    load: String,
    /// Microseconds to append a page to a file where the measured programs keep theirs, and wait
    /// until it is safe.
    fdatasync_us_p50: f64,
    fdatasync_us_p99: f64,
}

impl Machine {
    /// Looks at this machine, and at the disk under `dir`.
    pub(crate) fn look(dir: &Path) -> Result<Self> {
        let sync = fdatasync_us(dir).context("cannot measure fdatasync")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .context("cannot read the kernel's version")?
                .trim()
                .to_owned(),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|text| kib(&text))
                .unwrap_or_default()
                / 1024,
            load: fs::read_to_string("/proc/loadavg")?
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            fdatasync_us_p50: sync.p50,
            fdatasync_us_p99: sync.p99,
        })
    }

    pub(crate) fn to_markdown(&self) -> String {
        format!(
            "{} cores of {}, {} MiB, Linux {}; fdatasync of 4 KiB {:.0} µs (p99 {:.0} µs); load \
             before: {}\n",
            self.cores,
            self.processor,
            self.memory_mib,
            self.kernel,
            self.fdatasync_us_p50,
            self.fdatasync_us_p99,
            self.load
        )
    }
}

pub(crate) fn fdatasync_us(dir: &Path) -> Result<Summary> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut samples = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[1; SYNC_BYTES])?;
        file.sync_data()?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Summary::of(&samples).context("no samples")
}

/// The first value of `name: value` in a file of the kernel's.
pub(crate) fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// `1234 kB` as a number.
pub(crate) fn kib(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::look(dir.path()).unwrap();
        assert!(
            machine.cores > 0 && machine.memory_mib > 0 && machine.fdatasync_us_p50 > 0.0,
            "{machine:?}"
        );
        assert_eq!(machine.load.split(' ').count(), 3, "{machine:?}");
    }
}
