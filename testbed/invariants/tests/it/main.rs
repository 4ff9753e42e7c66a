//! The repository's own rules; see the README.

mod architecture;
mod arrows;
mod circles;
mod imports;
mod layout;
mod text;
mod weight;
