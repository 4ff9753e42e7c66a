//! gofer-db on both engines.

#![expect(clippy::print_stderr, reason = "every skip is printed")]

mod conformance;
mod engines;
