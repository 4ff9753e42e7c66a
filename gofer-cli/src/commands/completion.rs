//! `gofer completion`: what makes the shell complete gofer's commands.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::context::Context;
use crate::errors::Failure;

/// Prints the script that makes a shell complete commands and options
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gofer completion bash > ~/.local/share/bash-completion/completions/gofer
  gofer completion fish > ~/.config/fish/completions/gofer.fish
  gofer completion zsh > ~/.zfunc/_gofer")]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script for this command line.
pub(crate) fn run(
    args: &CompletionArgs,
    mut command: Command,
    context: &Context,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "gofer", &mut script);
    context.out.bytes(&script)
}
