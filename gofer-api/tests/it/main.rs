//! The server as its callers see it: started in this process on port 0, called over the wire.

mod admin;
mod bootstrap;
mod config;
mod database;
mod direct;
mod events;
mod exec;
mod foreign;
mod harness;
mod identity;
mod lifecycle;
mod objects;
mod permissions;
mod pipelines;
mod raw;
mod runs;
mod secrets;
mod several;
mod standing;
mod timeline;
mod wire;
