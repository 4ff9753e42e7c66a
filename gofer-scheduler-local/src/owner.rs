//! A process whose executions end with it, such as a command that runs one pipeline.
//!
//! Nobody takes up the executions of such an owner once it is gone. So it holds the writing end of
//! a pipe, and the zygote and every supervisor hold the reading end: whatever way the owner ends,
//! the kernel closes its end, and they see that.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};

/// Names the folder in the environment of the zygote, which passes nothing of it on.
pub(crate) const FOLDER_VARIABLE: &str = "GOFER_OWNERS_FOLDER";

/// Executions end when the last clone of this is dropped, at the latest with the process.
#[derive(Debug, Clone)]
pub struct Owner {
    life: Arc<Life>,
    folder: Option<PathBuf>,
}

#[derive(Debug)]
struct Life {
    seen_by_others: File,
    #[expect(dead_code, reason = "held until the end, which is what the others see")]
    held: OwnedFd,
}

impl Owner {
    /// `folder` is an absolute path: what else is to go with the owner. The last of the processes
    /// that outlive the owner removes it, unless the owner has done so before its end.
    ///
    /// # Errors
    /// When this process has no descriptor left.
    pub fn new(folder: Option<PathBuf>) -> io::Result<Self> {
        let (seen_by_others, held) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { life: Arc::new(Life { seen_by_others: seen_by_others.into(), held }), folder })
    }

    /// The end that others see, as the standard output of a process.
    pub(crate) fn stdio(&self) -> io::Result<Stdio> {
        self.life.seen_by_others.try_clone().map(Stdio::from)
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.life, &other.life) && self.folder == other.folder
    }
}

impl Eq for Owner {}
