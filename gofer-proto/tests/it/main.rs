//! Tests of the contract and of the code generated from it.

mod contract;
mod drift;
#[cfg(feature = "json")]
mod fuzz;
#[cfg(feature = "json")]
mod json;
mod redaction;
mod wording;
