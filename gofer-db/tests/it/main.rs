//! gofer-db on both engines.

#![expect(clippy::print_stderr, reason = "a database that was left behind is said")]

mod cancellation;
mod conformance;
mod engines;
mod events;
mod identities;
mod language;
mod lifecycle;
mod local_secrets;
mod namespaces;
mod objects;
mod pipelines;
mod quotas;
mod retention;
mod runs;
mod secrets;
mod setup;
mod shared;
mod tokens;
mod uploads;
