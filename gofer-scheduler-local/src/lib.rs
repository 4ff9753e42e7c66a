#![doc = include_str!("../README.md")]

mod cgroup;
mod config;
mod disk;
mod error;
mod exec;
mod executions;
mod frame;
mod layout;
mod live;
mod local;
mod logs;
pub mod open_files;
mod owner;
mod process;
mod record;
mod session;
mod spares;
mod spec;
pub mod supervisor;
mod sys;
mod table;
mod warden;
mod watcher;
mod wire;

pub use config::{Cgroup, Launcher, LocalSchedulerConfig};
pub use local::LocalScheduler;
pub use owner::Owner;
