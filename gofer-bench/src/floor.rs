//! The least that a chain costs when its server may die between any two steps. Another process
//! starts each task, so that it outlives the server. Another thread commits each end before the
//! next may begin.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::machine::SYNC_BYTES;
use crate::pipelines::Work;

/// The hidden command of the process that starts the tasks.
pub(crate) const RELAY_COMMAND: &str = "__relay";
/// Pages of the file that is written over and over, as SQLite's log is.
const PAGES: u64 = 64;

/// For each byte of its input: runs the command, and answers with a byte.
pub(crate) fn relay(mut words: impl Iterator<Item = OsString>) -> Result<()> {
    let program = words.next().context("no command")?;
    let args: Vec<OsString> = words.collect();
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    while input.read(&mut [0])? > 0 {
        let status = Command::new(&program)
            .args(&args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "{program:?} ended with {status}");
        output.write_all(&[0])?;
        output.flush()?;
    }
    Ok(())
}

/// A process that starts tasks, and a thread that commits.
#[derive(Debug)]
pub(crate) struct Floor {
    relay: Child,
    commits: SyncSender<()>,
    committed: Receiver<Result<(), std::io::Error>>,
}

impl Floor {
    pub(crate) fn new(dir: &Path, work: Work) -> Result<Self> {
        let file = tempfile::tempfile_in(dir)?;
        for page in 0..PAGES {
            file.write_all_at(&[0; SYNC_BYTES], page * SYNC_BYTES as u64)?;
        }

        file.sync_all()?;
        let (commits, asked) = sync_channel::<()>(1);
        let (answer, committed) = sync_channel(1);
        thread::Builder::new().name("commits".to_owned()).spawn(move || {
            for (count, ()) in asked.iter().enumerate() {
                let at = count as u64 % PAGES * SYNC_BYTES as u64;
                let done = file.write_all_at(&[1; SYNC_BYTES], at).and_then(|()| file.sync_data());
                if answer.send(done).is_err() {
                    break;
                }
            }
        })?;

        let mut relay = Command::new(std::env::current_exe()?);
        relay.arg(RELAY_COMMAND).args(work.command()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self {
            relay: relay.spawn().context("cannot start this program once more")?,
            commits,
            committed,
        })
    }

    /// Milliseconds for so many tasks, one after the other.
    pub(crate) fn chain(&mut self, tasks: usize) -> Result<f64> {
        let start = Instant::now();
        let (Some(input), Some(output)) = (&mut self.relay.stdin, &mut self.relay.stdout) else {
            unreachable!()
        };
        for _ in 0..tasks {
            input.write_all(&[0])?;
            output.read_exact(&mut [0]).context("a task failed")?;
            self.commits.send(())?;
            self.committed.recv()??;
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Its input is closed, so it ends.
        drop(self.relay.stdin.take());
        let _ = self.relay.wait();
    }
}
