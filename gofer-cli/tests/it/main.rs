//! The real binary, as a user runs it.

#[cfg(feature = "server")]
mod campaign;
mod command_line;
mod compile;
#[cfg(feature = "server")]
mod crash;
#[cfg(feature = "server")]
mod exec;
mod harness;
#[cfg(feature = "server")]
mod local;
#[cfg(feature = "server")]
mod nomad;
#[cfg(feature = "server")]
mod order;
#[cfg(feature = "server")]
mod pipelines;
#[cfg(feature = "server")]
mod servers;
#[cfg(feature = "server")]
mod serving;
#[cfg(feature = "server")]
mod stack;
#[cfg(feature = "server")]
mod stores;
mod supervise;
#[cfg(feature = "server")]
mod tls;
