#![doc = include_str!("../README.md")]

mod config;
mod durable;
mod error;
mod instance;
mod layout;
mod list;
mod local;
mod read;
mod staged;
mod upload;

pub use config::LocalStoreConfig;
pub use local::LocalObjectStore;
