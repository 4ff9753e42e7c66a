//! What takes several steps in several stores, apart from the calls that ask for it: domain in,
//! domain out. Each says what is left when it ends between two of its steps.

pub(crate) mod boundary;
pub(crate) mod disk;
pub(crate) mod health;
pub(crate) mod in_flight;
pub(crate) mod secrets;
