//! What runs beside the server: the warden and its supervisors.

use std::process::ExitCode;

/// The entry point of the supervisor process. Call it before anything starts a thread.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
