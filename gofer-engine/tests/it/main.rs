//! Tests of the engine from outside.

mod added;
mod bounds;
mod end_reported_to_lost_server;
mod engine;
mod fuzz;
mod machine;
mod model;
mod support;
mod timeline;
mod vanishing;
