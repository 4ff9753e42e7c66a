#![doc = include_str!("../README.md")]

mod certificates;
mod cli;
mod client;
mod commands;
mod compile;
mod context;
mod direct;
mod errors;
mod follow;
mod format;
mod interrupts;
mod output;
mod own_file;
mod source;
mod supervise;
mod terminal;
mod transfer;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Before anything else: it forks, so it must not find threads.
    #[cfg(feature = "server")]
    if std::env::args_os().nth(1).is_some_and(|argument| argument == commands::server::SUPERVISOR) {
        return gofer_api::supervisor::main();
    }

    // Beside every task of a Nomad node, so it does without the command line's machinery.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == supervise::COMMAND) {
        return supervise::main();
    }

    match cli::Cli::parse().execute() {
        Ok(exit) => ExitCode::from(exit),
        Err(failure) => {
            // Nobody can be told when stderr is gone.
            let _ = std::io::stderr().lock().write_all(failure.render().as_bytes());
            ExitCode::from(failure.exit as u8)
        }
    }
}
