#![doc = include_str!("../README.md")]

mod answers;
mod client;
mod config;
mod container;
mod error;
mod exec;
mod exit_file;
mod guard;
mod heard;
mod history;
mod identity;
mod ids;
mod jobspec;
mod jwt;
mod logs;
mod nomad;
mod podman;
mod preflight;
mod reason;
mod reports;
mod secrets;
mod shared;
mod state;
mod stop;
mod table;
mod tail;
mod template;
mod tls;
mod token;
mod watch;
mod websocket;

pub use config::{HostDriver, ImageDriver, LogLimits, NamespaceOverride, NomadConfig};
pub use nomad::NomadScheduler;
