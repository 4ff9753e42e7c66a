//! The rules that are pure, against tables and random input.

mod admission;
mod fuzz;
