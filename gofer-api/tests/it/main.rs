//! The server as its callers see it: started in this process on port 0, called over the wire.

mod admin;
mod boundary;
mod certificates;
mod config;
mod database;
mod direct;
mod events;
mod exec;
mod garbage;
mod fuzz;
mod harness;
mod http2;
mod lifecycle;
mod limits;
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
