//! A floor of free disk: uploads stop above the point where the database would.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::ApiError;

/// How long an answer of the file system is good. What arrives meanwhile is little beside the
/// floor.
const FREE_SPACE_TTL: Duration = Duration::from_millis(500);

/// The disks of this machine that uploads go to.
#[derive(Debug)]
pub(crate) struct FreeDisk {
    dirs: Vec<PathBuf>,
    min_bytes: u64,
    since: Instant,
    /// Milliseconds after `since` when it was last looked, plus one; 0 is never.
    looked: AtomicU64,
    /// What the fullest had then.
    free_bytes: AtomicU64,
}

impl FreeDisk {
    /// With a floor of 0 there is none.
    pub(crate) fn new(dirs: Vec<PathBuf>, min_bytes: u64) -> Self {
        let looked = AtomicU64::new(0);
        Self {
            dirs,
            min_bytes,
            since: Instant::now(),
            looked,
            free_bytes: AtomicU64::new(u64::MAX),
        }
    }

    /// Refuses what would fill a disk; looks at it once in a while, however often it is asked.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.min_bytes == 0 || self.dirs.is_empty() {
            return Ok(());
        }

        let now =
            u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let looked = self.looked.load(Ordering::Acquire);
        let is_old =
            looked == 0 || u128::from(now.saturating_sub(looked)) >= FREE_SPACE_TTL.as_millis();

        // Of many callers at once one looks, and the others take its last answer. Without this,
        // every piece of every upload would ask the file system.
        let mine =
            self.looked.compare_exchange(looked, now, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_old && mine {
            self.free_bytes.store(self.look(), Ordering::Release);
        }

        let free_bytes = self.free_bytes.load(Ordering::Acquire);
        if free_bytes < self.min_bytes {
            return Err(ApiError::DiskFull { free_bytes, min_bytes: self.min_bytes });
        }

        Ok(())
    }

    /// What those without privileges may still write to the fullest. A disk that does not answer
    /// says so when it is written to.
    fn look(&self) -> u64 {
        let free = |dir: &PathBuf| {
            rustix::fs::statvfs(dir).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        };
        self.dirs.iter().filter_map(free).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_floor_it_refuses_and_names_both_numbers() {
        let here = || vec![std::env::temp_dir()];
        assert!(FreeDisk::new(here(), 1).check().is_ok());
        assert!(
            FreeDisk::new(here(), 0).check().is_ok()
                && FreeDisk::new(Vec::new(), u64::MAX).check().is_ok()
        );

        let disk = FreeDisk::new(here(), u64::MAX);
        for _ in 0..3 {
            match disk.check() {
                Err(ApiError::DiskFull { free_bytes, min_bytes: u64::MAX }) => {
                    assert!(free_bytes < u64::MAX)
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
