//! Runs the supervisor code alone, for this crate's tests; the `gofer` binary does the same as
//! `gofer __supervisor`.

fn main() -> std::process::ExitCode {
    gofer_scheduler_local::supervisor::main()
}
