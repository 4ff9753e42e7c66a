//! The local secret store on real databases and real key files.

mod conformance;
mod database;
mod key_file;
mod rotation;
mod support;
