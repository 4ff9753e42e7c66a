//! Write Gofer pipelines in Rust.
