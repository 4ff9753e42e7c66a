//! The repository's own rules; see the README.

mod arrows;
mod layout;
mod text;
mod weight;
