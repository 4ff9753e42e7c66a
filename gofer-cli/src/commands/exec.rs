//! `gofer task exec`: a command, by default a shell, in a running task.

use std::io::{IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;

use clap::Args;
use gofer_proto::json::to_json;
use gofer_proto::v1::exec_request::Input;
use gofer_proto::v1::exec_response::Output;
use gofer_proto::v1::{ExecHeader, ExecRequest, ExecResponse, ExecStdinEnd, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::refs::{TaskRef, resolve};
use crate::client::Client;
use crate::context::Context;
use crate::errors::Failure;
use crate::follow::RunKey;

/// Most bytes of one read of stdin.
const READ_BYTES: usize = 16 * 1024;
/// Pieces of input that wait for the network; then stdin is not read.
const INPUT_QUEUE: usize = 8;
/// What is run when nothing is named.
const SHELL: &str = "/bin/sh";
/// The size of a terminal that does not know its own.
const USUAL_SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    task: TaskRef,
    /// Give the command a terminal [default: when stdin and stdout are one]
    #[arg(short, long)]
    tty: bool,
    /// Give the command pipes, also when stdin and stdout are a terminal
    #[arg(long, conflicts_with = "tty")]
    no_tty: bool,
    /// Program and arguments [default: /bin/sh]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command to its end; its exit code is this command's.
pub(crate) async fn run(args: ExecArgs, context: &Context, client: &Client) -> Result<u8, Failure> {
    let RunKey { namespace, pipeline, run } =
        resolve(context, client, args.task.pipeline, args.task.run).await?;
    let here = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let wanted = !args.no_tty && (args.tty || here && !context.out.is_json());
    let command = if args.command.is_empty() { vec![SHELL.to_owned()] } else { args.command };
    let terminal = wanted.then(|| own_size().unwrap_or(USUAL_SIZE));
    let header = ExecHeader { namespace, pipeline, run, task: args.task.task, command, terminal };

    let (input, inputs) = mpsc::channel(INPUT_QUEUE);
    send(&input, Input::Header(header)).await;
    let inputs =
        futures::stream::unfold(inputs, async |mut inputs| Some((inputs.recv().await?, inputs)));
    let mut output = client.task_runs().exec(inputs).await?.into_inner();

    // Only now: as long as the command does not run, Ctrl-C is for this one.
    let terminal = if wanted { Terminal::take()? } else { None };
    let mut signals = Signals::catch(wanted)?;
    read_stdin(input.clone())?;
    let ended = loop {
        tokio::select! {
            message = output.message() => match message {
                Ok(Some(message)) => match show(context, message)? {
                    Some(code) => break Ok(code),
                    None if context.out.closed() => break Ok(0),
                    None => {}
                },
                Ok(None) => break Err(Failure::unreachable("the server ended the session without \
                                                            the command's exit code")),
                Err(status) => break Err(Failure::from(status)),
            },
            signalled = signals.next() => match signalled {
                Signalled::Resized => {
                    if let Some(size) = own_size() {
                        send(&input, Input::Resize(size)).await;
                    }
                }
                Signalled::AskedToEnd(code) => break Ok(code),
            },
        }
    };

    drop(terminal);
    ended
}

/// What the command writes goes where this one's output goes; says its exit code when it has ended.
fn show(context: &Context, message: ExecResponse) -> Result<Option<u8>, Failure> {
    let out = &context.out;
    let code = match &message.output {
        // As shells have it: the lowest eight bits.
        Some(Output::Exited(exited)) => Some(exited.exit_code.to_le_bytes()[0]),
        _ => None,
    };

    if out.is_json() {
        out.json_line(&to_json(&message))?;
        return Ok(code);
    }

    match message.output {
        Some(Output::Stdout(data)) => out.bytes(&data)?,
        Some(Output::Stderr(data)) => out.error_bytes(&data),
        Some(Output::Started(_) | Output::Exited(_)) | None => {}
    }

    Ok(code)
}

async fn send(input: &mpsc::Sender<ExecRequest>, piece: Input) {
    // The other end closes with the session, which is seen where its output is read.
    let _ = input.send(ExecRequest { input: Some(piece) }).await;
}

/// Passes on what comes from stdin, in a thread of its own: a read cannot be given up, and ends
/// with the process.
fn read_stdin(input: mpsc::Sender<ExecRequest>) -> Result<(), Failure> {
    let reader = std::thread::Builder::new().name("stdin".to_owned());
    let reading = reader.spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let piece = match stdin.read(&mut buffer) {
                Ok(0) => Input::StdinEnd(ExecStdinEnd {}),
                Ok(count) => Input::Stdin(buffer[..count].to_vec().into()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => Input::StdinEnd(ExecStdinEnd {}),
            };

            let is_last = matches!(piece, Input::StdinEnd(_));
            if input.blocking_send(ExecRequest { input: Some(piece) }).is_err() || is_last {
                return;
            }
        }
    });

    reading.map(drop).map_err(|error| Failure::refused(format!("cannot start a thread: {error}")))
}

/// The size of the terminal that stdout is.
fn own_size() -> Option<TerminalSize> {
    let size = tcgetwinsize(std::io::stdout().as_fd()).ok()?;
    let known = size.ws_row > 0 && size.ws_col > 0;
    known.then(|| TerminalSize { rows: size.ws_row.into(), columns: size.ws_col.into() })
}

/// The terminal that stdin is, passing on every key as it is. Dropped, it is as it was.
struct Terminal {
    before: Termios,
}

impl Terminal {
    /// `None` when stdin is no terminal.
    fn take() -> Result<Option<Self>, Failure> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let failed = |error| Failure::refused(format!("the terminal cannot be set up: {error}"));
        let before = tcgetattr(stdin.as_fd()).map_err(failed)?;
        // What was typed ahead is for the command.
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After what was written, and without what was typed for a command that is gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &self.before);
    }
}

/// Signals that would otherwise leave a terminal behind that shows nothing of what is typed.
struct Signals(Option<[Signal; 3]>);

impl Signals {
    fn catch(terminal: bool) -> Result<Self, Failure> {
        let catch = |kind| {
            signal(kind).map_err(|error| Failure::refused(format!("cannot catch signals: {error}")))
        };
        if !terminal {
            return Ok(Self(None));
        }
        let kinds = [SignalKind::window_change(), SignalKind::terminate(), SignalKind::hangup()];
        let [size, terminate, hangup] = kinds.map(catch);
        Ok(Self(Some([size?, terminate?, hangup?])))
    }

    /// The next one; never comes when none are caught.
    async fn next(&mut self) -> Signalled {
        let Some([size, terminate, hangup]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = size.recv() => Signalled::Resized,
            _ = terminate.recv() => Signalled::AskedToEnd(128 + 15),
            _ = hangup.recv() => Signalled::AskedToEnd(128 + 1),
        }
    }
}

/// What a signal says.
enum Signalled {
    /// The terminal has another size.
    Resized,
    /// It is over, and the exit code of that.
    AskedToEnd(u8),
}
