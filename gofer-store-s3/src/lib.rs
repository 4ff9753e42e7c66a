#![doc = include_str!("../README.md")]

mod answer;
mod check;
mod client;
mod config;
mod credentials;
mod error;
mod list;
mod operation;
mod order;
mod page;
mod parts;
mod presign;
mod put;
mod read;
mod s3;
mod tls;
mod upload;
mod write;

pub use crate::s3::S3ObjectStore;
pub use config::{CredentialSource, S3Config};
