//! The memory implementations pass the conformance suites, also when they fail at random; and the
//! suites are sound.

mod faulty;
mod memory;
mod retrying;
mod shell;
mod suites;
