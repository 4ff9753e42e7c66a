//! The memory implementations pass the conformance suites, also when they fail at random.

mod faulty;
mod memory;
mod retrying;
mod suites;
