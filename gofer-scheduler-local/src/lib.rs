#![doc = include_str!("../README.md")]

mod accounts;
mod cgroup;
mod config;
mod confinement;
mod disk;
mod error;
mod exec;
mod executions;
mod frame;
mod hardening;
mod launch_dir;
mod layout;
mod live;
mod local;
mod logs;
mod owner;
mod policy;
mod process;
mod record;
mod session;
mod spares;
mod spec;
pub mod supervisor;
mod sys;
mod table;
mod users;
mod watcher;
mod wire;
mod zygote;

pub use config::{Cgroup, LandlockMode, Launcher, LocalSchedulerConfig, UidRange, UsersConfig};
pub use hardening::{close_process, note_limits};
pub use local::LocalScheduler;
pub use owner::Owner;
