//! The server's own files on this machine.

pub(crate) mod credential_file;
pub(crate) mod data_dir;
pub(crate) mod reload;
