//! Tests of the engine from outside.

mod engine;
mod machine;
mod model;
mod support;
