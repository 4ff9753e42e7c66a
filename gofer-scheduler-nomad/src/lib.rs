#![doc = include_str!("../README.md")]

mod calls;
mod config;
mod exec;
mod http;
mod identity;
mod job;
mod logs;
mod nomad;
mod preflight;
mod state;
mod stream;

pub use config::{HostDriver, ImageDriver, LogLimits, NamespaceOverride, NomadConfig};
pub use nomad::NomadScheduler;
