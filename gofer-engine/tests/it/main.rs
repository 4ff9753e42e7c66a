//! Tests of the engine from outside.

mod added;
mod bounds;
mod engine;
mod fuzz;
mod machine;
mod model;
mod support;
mod timeline;
mod told;
mod vanishing;
