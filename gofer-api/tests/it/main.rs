//! The server as its callers see it: started in this process on port 0, called over the wire.

mod admin;
mod config;
mod database;
mod direct;
mod events;
mod exec;
mod fuzz;
mod harness;
mod lifecycle;
mod masks;
mod objects;
mod permissions;
mod pipelines;
mod raw;
mod runs;
mod secrets;
mod several;
mod timeline;
mod variables;
mod wire;
