//! Logs of attempts.

pub(crate) mod archiver;
pub(crate) mod format;
mod lines;
pub mod mask;
pub(crate) mod read;
pub(crate) mod run_masks;
pub(crate) mod warnings;
