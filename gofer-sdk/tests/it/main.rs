//! gofer-sdk from the outside: what is refused, what reaches the wire, and the examples as a user
//! runs them.

mod decode;
mod examples;
mod random;
mod refused;
mod wire;
