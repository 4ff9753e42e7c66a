//! The one binary, `gofer`.
fn main() {}
