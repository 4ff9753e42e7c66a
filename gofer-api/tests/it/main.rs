//! The server as its callers see it: started in this process on port 0, called over the wire.

mod admin;
mod config;
mod database;
mod direct;
mod events;
mod exec;
mod harness;
mod lifecycle;
mod objects;
mod permissions;
mod pipelines;
mod quotas;
mod raw;
mod runs;
mod secrets;
mod several;
mod timeline;
mod wire;
