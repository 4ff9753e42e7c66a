//! Tests of the contract and of the code generated from it.

mod comments;
mod contract;
mod drift;
#[cfg(feature = "json")]
mod json;
mod redaction;
