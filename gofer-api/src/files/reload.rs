//! What is read again while the server runs: when it is told to (SIGHUP), and when a file has
//! changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

/// How often files are looked at. A look is one system call per file.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Something that can be read again. What is wrong with the new state leaves the old one in force.
pub(crate) trait Reload: Send + Sync {
    /// For the log.
    fn what(&self) -> &'static str;

    /// The files it comes from.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads it again.
    ///
    /// # Errors
    /// What is wrong, for a person.
    fn reload(&self) -> Result<(), String>;
}

/// What tells one content of a file from another: contents are exchanged by writing or by renaming.
type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

/// All that is read again.
#[derive(Default)]
pub(crate) struct Reloads {
    things: Vec<Arc<dyn Reload>>,
    wanted: Notify,
}

impl std::fmt::Debug for Reloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.things.iter().map(|thing| thing.what())).finish()
    }
}

impl Reloads {
    pub(crate) fn new(things: Vec<Arc<dyn Reload>>) -> Self {
        Self { things, wanted: Notify::new() }
    }

    /// Reads everything again soon.
    pub(crate) fn request(&self) {
        self.wanted.notify_one();
    }

    /// Waits for requests and changes, for ever.
    pub(crate) async fn run(&self) {
        let mut seen: Vec<Stamp> = self.things.iter().map(|thing| stamp(&**thing)).collect();
        loop {
            let requested =
                tokio::time::timeout(FILE_CHECK_INTERVAL, self.wanted.notified()).await.is_ok();
            for (thing, seen) in self.things.iter().zip(&mut seen) {
                // The stamp is taken before the read. Without this, a change during the read would
                // have the new stamp and the old content, and never be read.
                let now = stamp(&**thing);
                if !requested && now == *seen {
                    continue;
                }

                *seen = now;
                match thing.reload() {
                    Ok(()) => tracing::info!("{} was read again", thing.what()),
                    Err(problem) => {
                        tracing::error!(
                            "{} was not exchanged, the old one stays in use: {problem}",
                            thing.what()
                        );
                    }
                }
            }
        }
    }
}

fn stamp(thing: &dyn Reload) -> Stamp {
    use std::os::unix::fs::MetadataExt;

    let stamp = |path: PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    thing.files().into_iter().map(stamp).collect()
}
