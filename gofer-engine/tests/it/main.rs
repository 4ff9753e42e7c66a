//! Tests of the engine from outside.

mod bounds;
mod end_reported_to_lost_server;
mod engine;
mod fuzz;
mod machine;
mod model;
mod run_masks;
mod support;
mod timeline;
mod vanishing;
