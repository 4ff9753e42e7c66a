//! File systems of a test's own, which it may fill and break.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::text;

/// A small mounted file system; gone with the value.
pub(crate) struct Volume {
    path: PathBuf,
    /// The device, as arguments of `mount`.
    device: Vec<String>,
    _dir: TempDir,
}

impl Volume {
    /// In memory; `None`, printed, where the test may not mount.
    pub(crate) fn memory(test: &str, size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let device = ["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "gofer-test"]
            .map(str::to_owned)
            .to_vec();
        Self::mounted(test, dir, device)
    }

    /// A disk that becomes read-only with its first error; `None`, printed, where the test may not
    /// mount.
    pub(crate) fn disk(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let image = dir.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("a file");
        if let Err(why) = run("mkfs.ext4", &["-q", "-F", text(&image)]) {
            skip(test, &why);
            return None;
        }
        let device = ["-o", "loop,errors=remount-ro", text(&image)].map(str::to_owned).to_vec();
        Self::mounted(test, dir, device)
    }

    fn mounted(test: &str, dir: TempDir, device: Vec<String>) -> Option<Self> {
        let path = dir.path().join("volume");
        std::fs::create_dir(&path).expect("a folder");
        let volume = Self { path, device, _dir: dir };
        match volume.mount() {
            Ok(()) => Some(volume),
            Err(why) => {
                skip(test, &why);
                None
            }
        }
    }

    fn mount(&self) -> Result<(), String> {
        let device: Vec<_> = self.device.iter().map(String::as_str).collect();
        run("mount", &[device.as_slice(), &[text(&self.path)]].concat())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no room at all.
    pub(crate) fn fill(&self) {
        let mut ballast = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("a file");
        let mut piece = 1 << 20;
        while piece > 0 {
            match ballast.write(&vec![0; piece]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 2,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast");
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// From now on it is read-only, as after an error of the disk, for those too that have files
    /// open.
    pub(crate) fn break_down(&self) {
        run("sync", &["-f", text(&self.path)]).expect("it can be synced");
        // That it then is read-only is told as an error.
        let _ = run("mount", &["-o", "remount,abort", text(&self.path)]);
        let refused = std::fs::write(self.path.join("probe"), "x").expect_err("it is read-only");
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem, "{refused}");
    }

    /// What an operator does then. Nobody may have files open.
    pub(crate) fn repair(&self) {
        run("umount", &[text(&self.path)]).expect("it can be unmounted");
        self.mount().expect("it can be mounted");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Detached even if something is left that has a file open.
        let _ = run("umount", &["-l", text(&self.path)]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("`{program}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "`{program}`: {}",
        String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()
    ))
}

/// Says so where whoever runs the tests sees it.
pub(crate) fn skip(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("skipped: {test}: {why}\n").as_bytes());
}
