//! The Nomad scheduler against the fake agent, always, and against a real one, where there is one.

mod acl;
mod agent;
mod cases;
mod cluster;
mod conformance;
mod docker_log;
mod fake;
mod isolated;
mod parity;
mod partly;
mod podman;
mod proxy;
mod secrets;
mod supervised;
mod support;
