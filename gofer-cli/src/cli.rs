//! The command line: the list of commands, and the runtime each of them gets.

use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::commands;
use crate::context::{Context, Global};
use crate::errors::{Exit, Failure};

const EXIT_CODES: &str = "\
Examples:
  gofer local examples/rust/hello        run a pipeline here, without a server
  gofer server                           start a server on 127.0.0.1:8469
  gofer up examples/rust/hello           register a pipeline with it
  gofer run start hello --follow         start a run and watch it

Environment:
  GOFER_API_ADDR        the same as --addr
  GOFER_API_TOKEN       the token, unless --token-file is given; without either, the one that a
                        development server on this machine has left for you is found by itself
  GOFER_API_TOKEN_FILE  the same as --token-file
  GOFER_CA_FILE         the same as --ca-file
  GOFER_BOOTSTRAP_CODE  the code for `gofer token bootstrap`
  GOFER_CLIENT_CERT_FILE, GOFER_CLIENT_KEY_FILE
                        the same as --client-cert and --client-key
  GOFER_INSECURE        the same as --insecure
  GOFER_NAMESPACE       the same as --namespace
  GOFER_OUTPUT          the same as --output
  GOFER_QUIET           the same as --quiet
  NO_COLOR              no colours when set

Exit codes:
  0  everything asked for was done
  1  the run that was followed failed or was cancelled
  2  wrong use: arguments, files, a pipeline that does not compile or is not valid
  3  the server is unreachable, cannot do it now (its disk is full), did not answer in time, or failed inside
  4  refused: not found, exists already, not permitted, not in this state, a limit reached
  130  interrupted with Ctrl-C; any other signal: 128 and its number, as shells have it
  `gofer task exec` ends with the exit code of the command it ran.";

/// Runs pipelines: DAGs of short-lived jobs, written in a real programming language
///
/// `gofer local` runs a pipeline on this machine and needs nothing else. `gofer server` is the
/// server; every other command talks to one.
#[derive(Debug, Parser)]
#[command(name = "gofer", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "server")]
    Server(commands::server::ServerArgs),
    #[cfg(feature = "server")]
    Local(commands::local::LocalArgs),
    Up(commands::up::UpArgs),
    Pipeline(commands::pipeline::PipelineArgs),
    Run(commands::run::RunArgs),
    Task(commands::task::TaskArgs),
    Namespace(commands::namespace::NamespaceArgs),
    Object(commands::object::ObjectArgs),
    Secret(commands::secret::SecretArgs),
    Event(commands::event::EventArgs),
    Token(commands::token::TokenArgs),
    System(commands::system::SystemArgs),
    Completion(commands::completion::CompletionArgs),
}

impl Cli {
    /// Executes the command on a runtime of the size it needs, and says the exit code: an [`Exit`],
    /// or of a command in a task.
    pub(crate) fn execute(self) -> Result<u8, Failure> {
        let context = Context::new(self.global);

        let runtime = runtime(&self.command)?;
        let patience = patience(&self.command);
        let result = runtime.block_on(run(self.command, &context));
        let result = result.map_err(|failure| match context.sought_token() {
            Some(sought) => failure.without_token(sought),
            None => failure,
        });

        // Not dropped: that would wait for a read of stdin that nobody needs any more.
        runtime.shutdown_timeout(patience);
        result
    }
}

/// A client needs one thread; SQLite's wrapper in the server needs a multi-threaded runtime.
fn runtime(command: &Command) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match command {
        #[cfg(feature = "server")]
        Command::Server(_) | Command::Local(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    #[cfg(feature = "server")]
    if let Command::Local(_) = command {
        builder.worker_threads(2);
    }
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("cannot start threads: {error}")))
}

/// How long file operations may go on that were under way when the command was over: a server's,
/// not a client's.
fn patience(command: &Command) -> Duration {
    match command {
        #[cfg(feature = "server")]
        Command::Server(_) | Command::Local(_) => Duration::from_secs(5),
        _ => Duration::ZERO,
    }
}

async fn run(command: Command, context: &Context) -> Result<u8, Failure> {
    let done = match command {
        #[cfg(feature = "server")]
        Command::Server(args) => commands::server::run(args, context).await,
        #[cfg(feature = "server")]
        Command::Local(args) => commands::local::run(args, context).await,
        Command::Run(args) => commands::run::run(args, context).await,
        Command::Up(args) => commands::up::run(args, context).await.map(|()| Exit::Ok),
        Command::Pipeline(args) => commands::pipeline::run(args, context).await.map(|()| Exit::Ok),
        Command::Task(args) => return commands::task::run(args, context).await,
        Command::Namespace(args) => {
            commands::namespace::run(args, context).await.map(|()| Exit::Ok)
        }
        Command::Object(args) => commands::object::run(args, context).await.map(|()| Exit::Ok),
        Command::Secret(args) => commands::secret::run(args, context).await.map(|()| Exit::Ok),
        Command::Event(args) => commands::event::run(args, context).await.map(|()| Exit::Ok),
        Command::Token(args) => commands::token::run(args, context).await.map(|()| Exit::Ok),
        Command::System(args) => commands::system::run(args, context).await.map(|()| Exit::Ok),
        Command::Completion(args) => {
            commands::completion::run(&args, Cli::command(), context).map(|()| Exit::Ok)
        }
    };
    done.map(|exit| exit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_global_option_has_a_variable() {
        let command = Cli::command();
        let lacks = command
            .get_arguments()
            .filter(|argument| argument.is_global_set() && argument.get_env().is_none());
        let lacks: Vec<_> = lacks.map(|argument| argument.get_id().as_str()).collect();
        assert!(lacks.is_empty(), "{lacks:?}");
    }

    #[test]
    fn every_command_has_help_and_every_leaf_an_example() {
        fn visit(command: &clap::Command, path: &str, wrong: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if command.get_about().is_none() {
                wrong.push(format!("{path}: no help"));
            }

            let example = command
                .get_after_help()
                .is_some_and(|text| text.to_string().contains("Examples:\n  gofer"));
            if !command.has_subcommands() && !example {
                wrong.push(format!("{path}: no example"));
            }

            for argument in command.get_arguments().filter(|argument| argument.get_help().is_none())
            {
                wrong.push(format!("{path}: `{}` has no help", argument.get_id()));
            }

            command.get_subcommands().for_each(|child| visit(child, &path, wrong));
        }

        let mut wrong = Vec::new();
        visit(&Cli::command(), "", &mut wrong);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
