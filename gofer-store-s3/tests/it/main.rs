//! The S3 object store on a fake with fault switches, always, and on a real store when one is
//! named.

mod check;
mod config;
mod conformance;
mod fake;
mod faults;
mod keys;
mod listing;
mod memory;
mod presigned;
mod real;
mod support;
mod tls;
mod uploads;
