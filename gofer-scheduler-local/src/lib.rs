#![doc = include_str!("../README.md")]

mod config;
mod local;
pub mod supervisor;

pub use config::{Cgroup, Launcher, LocalSchedulerConfig};
pub use local::LocalScheduler;
