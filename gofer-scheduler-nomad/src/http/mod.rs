//! HTTP towards the agents.

pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod types;
