//! Tests of the engine from outside.

mod bounds;
mod engine;
mod machine;
mod model;
mod support;
mod timeline;
mod told;
mod vanishing;
