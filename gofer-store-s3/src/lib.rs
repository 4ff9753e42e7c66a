#![doc = include_str!("../README.md")]

mod answer;
mod check;
mod client;
mod config;
mod credentials;
mod error;
mod instance;
mod list;
mod operation;
mod order;
mod presign;
mod read;
mod store;
mod tls;
mod upload;
mod write;

pub use config::{CredentialSource, S3Config};
pub use store::S3ObjectStore;
