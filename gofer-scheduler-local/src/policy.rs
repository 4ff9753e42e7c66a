//! What Landlock is asked to keep from tasks that run as the server's own user, and what it can.
//!
//! Landlock knows what is allowed, not what is forbidden. So everything beside the way to what is
//! protected is allowed (see `supervisor/sandbox.rs`), and of a directory *on* that way only its
//! list: nothing new can be made in it. Where tasks live by doing so (their home, `/tmp`), `auto`
//! leaves the files open and says so.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gofer_core::{BackendError, ErrorKind};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated,
    RulesetError, Scope,
};
use rustix::fs::{Access as Wanted, access};
use rustix::process::geteuid;

use crate::config::{LandlockMode, LocalSchedulerConfig};
use crate::confinement::Landlock;

/// The ABI whose rights are asked for; older kernels know fewer.
const WANTED: ABI = ABI::V6;

/// What is used of Landlock, and what to tell people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) landlock: Option<Landlock>,
    pub(crate) description: String,
}

impl Policy {
    /// What the configuration, the kernel and the place of the directory make of it.
    ///
    /// # Errors
    /// `Invalid` when it is required, and the kernel has not got it.
    pub(crate) fn decide(config: &LocalSchedulerConfig) -> Result<Self, BackendError> {
        let off =
            |why: &str| Ok(Self { landlock: None, description: format!("Landlock off ({why})") });
        let required = config.landlock == LandlockMode::Require;
        let kernel = Kernel::probe();

        match config.landlock {
            LandlockMode::Off => return off("as configured"),
            LandlockMode::Auto if config.owner.is_some() => return off("one command's own tasks"),
            LandlockMode::Auto if config.trusted => return off("tasks are trusted"),
            LandlockMode::Auto if config.users.is_some() => {
                return off("each namespace has its own user");
            }
            LandlockMode::Auto if !kernel.files => return off("this kernel has none"),
            LandlockMode::Require if !(kernel.files && kernel.scopes) => {
                let message = "`landlock` is `require`: must be a kernel with Landlock ABI 6 \
                               (Linux 6.12) that is not switched off at boot; use such a kernel, \
                               or say `auto`";
                return Err(BackendError::new(ErrorKind::Invalid, message));
            }
            LandlockMode::Auto | LandlockMode::Require => {}
        }

        let protected = protected(config);
        let open = if required { None } else { needed_by_tasks(config, &protected) };
        let mut words = Vec::new();
        if open.is_none() {
            words.push("the data directory");
        }

        if kernel.scopes {
            words.push("signals, abstract sockets");
        }

        if open.is_none() || !geteuid().is_root() {
            words.push("memory of others");
        }

        if words.is_empty() {
            return off("it would keep nothing from root's own tasks here");
        }

        let mut description = format!("Landlock keeps from tasks: {}", words.join(", "));
        if let Some(why) = &open {
            description.push_str(&format!(" (not the data directory: {why})"));
        }

        let protected = if open.is_none() { protected } else { Vec::new() };
        let readable = config.path_prepend.iter().map(|path| real(path));
        let readable =
            readable.filter(|path| protected.iter().any(|dir| path.starts_with(dir))).collect();

        Ok(Self {
            landlock: Some(Landlock { scopes: kernel.scopes, protected, readable }),
            description,
        })
    }
}

/// What the kernel has.
struct Kernel {
    files: bool,
    scopes: bool,
}

impl Kernel {
    fn probe() -> Self {
        let files = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let files =
            files.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok();
        let scopes = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let scopes = scopes.scope(Scope::from_all(WANTED)).and_then(Ruleset::create).is_ok();
        Self { files, scopes }
    }
}

/// A ruleset that forbids what there are rules for, as far as the kernel can. Without files it
/// forbids nothing to be opened.
pub(crate) fn empty_ruleset(landlock: &Landlock) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default();
    if landlock.scopes {
        ruleset = ruleset.scope(Scope::from_all(WANTED))?;
    }
    if landlock.protected.is_empty() && !landlock.scopes {
        // Something has to be asked for. Any domain keeps out debuggers, and what reads the memory
        // of others.
        ruleset = ruleset.handle_access(AccessFs::MakeBlock)?;
    }
    if !landlock.protected.is_empty() {
        ruleset = ruleset.handle_access(all_access())?;
    }
    ruleset.create()
}

/// Everything that can be done with files.
pub(crate) fn all_access() -> landlock::BitFlags<AccessFs> {
    AccessFs::from_all(WANTED)
}

/// The scheduler's directory and what else the server names, without links, each once.
fn protected(config: &LocalSchedulerConfig) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        config.protected.iter().chain([&config.dir]).map(|path| real(path)).collect();
    all.sort();
    // A path sorts before those below it.
    all.dedup_by(|below, dir| below.starts_with(dir));
    all
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

/// Why tasks would miss the files that Landlock takes away, if they would.
fn needed_by_tasks(config: &LocalSchedulerConfig, protected: &[PathBuf]) -> Option<String> {
    let home =
        std::env::var_os("HOME").filter(|_| config.pass_env.iter().any(|name| name == "HOME"));
    if let Some(home) =
        home.map(|home| real(Path::new(&home))).filter(|home| home.parent().is_some())
    {
        let beside = |path: &&PathBuf| path.starts_with(&home) || home.starts_with(path);
        if let Some(path) = protected.iter().find(beside) {
            return Some(format!(
                "`{}` is in the way of the tasks' HOME `{}`",
                path.display(),
                home.display()
            ));
        }
    }

    let root = geteuid().is_root();
    for dir in protected.iter().flat_map(|path| path.ancestors().skip(1)) {
        let for_all = dir.metadata().is_ok_and(|found| found.mode() & 0o002 != 0);
        if for_all || (!root && access(dir, Wanted::WRITE_OK).is_ok()) {
            return Some(format!("tasks may write in `{}`, above it", dir.display()));
        }
    }

    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tasks_live_by_stays_open_unless_it_is_required() {
        let root = tempfile::tempdir().unwrap();
        let mut config =
            LocalSchedulerConfig { dir: root.path().join("x"), ..LocalSchedulerConfig::default() };
        config.protected = vec![root.path().join("x/inner"), root.path().join("key")];
        assert_eq!(protected(&config).len(), 2, "one is below another");

        // The system's directory for temporary files is everybody's.
        let open = Policy::decide(&config).unwrap();
        assert!(open.description.contains("above it"), "{}", open.description);
        config.landlock = LandlockMode::Off;
        assert_eq!(Policy::decide(&config).unwrap().landlock, None);
        config.landlock = LandlockMode::Auto;
        config.trusted = true;
        assert_eq!(Policy::decide(&config).unwrap().landlock, None);
        config.landlock = LandlockMode::Require;

        match Policy::decide(&config) {
            Ok(policy) => assert_eq!(policy.landlock.unwrap().protected, protected(&config)),
            Err(error) => assert!(error.message.contains("Landlock ABI 6"), "{error}"),
        }
    }
}
