//! Tests of the engine from outside.

mod machine;
mod model;
mod support;
