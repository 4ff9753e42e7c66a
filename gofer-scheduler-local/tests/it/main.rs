//! Real processes on this machine, under the scheduler as a server uses it.

mod conformance;
mod crash;
mod figures;
mod isolation;
mod logs;
mod orphans;
mod owner;
mod processes;
mod server;
mod stop;
mod support;
