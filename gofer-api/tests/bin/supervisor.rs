//! Runs the supervisor code of the local scheduler for this crate's tests, as `gofer __supervisor`
//! does.

fn main() -> std::process::ExitCode {
    gofer_api::supervisor::main()
}
