//! The directory and the live entry of an execution that is about to be launched.

use std::fs;
use std::io;

use gofer_core::ExecutionId;

use crate::confinement::User;
use crate::layout::{ExecutionDir, Layout, LiveName};
use crate::spares::Spares;
use crate::{disk, live, record};

/// What there is before a launch.
pub(crate) enum Begun {
    /// It has ended already.
    Ended,
    /// Everything is ready for a supervisor.
    Ready,
}

/// Makes the live entry and the directory of an execution this server does not know. Nothing of it
/// can be running, for then it would be known: whatever lies there is left from a launch that came
/// to nothing.
pub(crate) fn begin(
    layout: &Layout,
    spares: &Spares,
    id: &ExecutionId,
    live: &LiveName,
    user: Option<&User>,
) -> io::Result<Begun> {
    let dir = layout.execution(id);
    if record::read(&dir)?.is_some() {
        return Ok(Begun::Ended);
    }

    let entry = layout.live(live);
    if user.is_none() && spares.use_for(&dir, &entry) {
        return Ok(Begun::Ready);
    }

    live::create(&entry)?;
    let made = match user {
        None => disk::make_execution_dir(&dir),
        Some(user) => make_users_dir(&dir, user),
    };

    if made.is_err() {
        let _ = fs::remove_file(entry);
    }

    made.map(|()| Begun::Ready)
}

/// The same for a process of another user: what is the server's stays closed to it, and `work` and
/// `tmp` are its own.
fn make_users_dir(dir: &ExecutionDir, user: &User) -> io::Result<()> {
    disk::make_dir(dir.path())?;
    disk::set_mode(dir.path(), disk::PASSABLE_MODE)?;
    for own in [dir.work(), dir.tmp()] {
        disk::make_dir(&own)?;
        std::os::unix::fs::lchown(&own, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}
