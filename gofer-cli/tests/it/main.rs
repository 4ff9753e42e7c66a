//! The real binary, as a user runs it.

#[cfg(feature = "server")]
mod away;
#[cfg(feature = "server")]
mod campaign;
#[cfg(feature = "server")]
mod closed;
mod command_line;
mod compile;
#[cfg(feature = "server")]
mod crash;
#[cfg(feature = "server")]
mod cutter;
#[cfg(feature = "server")]
mod exec;
#[cfg(feature = "server")]
mod following;
mod harness;
#[cfg(feature = "server")]
mod limits;
#[cfg(feature = "server")]
mod local;
#[cfg(feature = "server")]
mod nomad;
#[cfg(feature = "server")]
mod objects;
#[cfg(feature = "server")]
mod order;
#[cfg(feature = "server")]
mod owner;
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
mod terminal;
#[cfg(feature = "server")]
mod terminals;
#[cfg(feature = "server")]
mod tls;
mod tokens;
