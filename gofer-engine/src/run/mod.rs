//! Runs that this server drives.

pub(crate) mod driver;
pub(crate) mod events;
pub(crate) mod first_step;
pub(crate) mod registry;
