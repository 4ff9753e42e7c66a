#![doc = include_str!("../README.md")]

mod canary;
mod config;
mod error;
mod key;
mod key_file;
mod key_ring;
mod local;
mod rotate;

pub use config::LocalSecretsConfig;
pub use local::LocalSecretStore;
