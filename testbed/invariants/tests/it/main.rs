//! The repository's own rules; see the README.

mod architecture;
mod arrows;
mod circles;
mod circles_api;
mod layout;
mod modules;
mod text;
mod weight;
