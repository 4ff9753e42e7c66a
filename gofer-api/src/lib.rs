#![doc = include_str!("../README.md")]

pub mod config;
mod server;

pub use server::{CheckLine, Launcher, Server, ServerError, check};
