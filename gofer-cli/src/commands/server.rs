//! `gofer server`: the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use gofer_api::config::{LogFormat, LogSection, ServerConfig};
use gofer_api::{CheckLine, Launcher, Server, ServerError};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

use crate::context::Context;
use crate::errors::{Exit, Failure, causes};
use crate::interrupts::{HangUps, Interrupts};
use crate::{output, own_file};

/// Serves the API and executes runs, until Ctrl-C or SIGTERM; tasks that run then go on, and the
/// next start finds them
///
/// Without a configuration it is a development server: this machine only, no TLS, everything in one
/// folder, and a token that is new at each start. `gofer` finds that by itself when the same user
/// calls it on the same machine. Its first line on stdout is `listening on http://ADDRESS:PORT`;
/// its log goes to stderr. SIGHUP makes it read its certificate again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gofer server                                      a development server on 127.0.0.1:8469
  gofer server --data-dir /tmp/g --listen 127.0.0.1:0
  gofer server --config /etc/gofer/gofer.toml
  gofer server --config /etc/gofer/gofer.toml --check
  gofer server --config /etc/gofer/gofer.toml --rotate-secrets-key
  gofer server --config /etc/gofer/gofer.toml --reset-bootstrap

Every key of the file may also be given as a variable, for example GOFER_SERVER__LISTEN.")]
pub(crate) struct ServerArgs {
    /// The configuration, as TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only try the configuration and everything it names, and say what was found
    #[arg(long)]
    check: bool,
    /// Only give the local secret store a new key and encrypt every secret again; the server must
    /// not be running
    #[arg(long, conflicts_with = "check")]
    rotate_secrets_key: bool,
    /// Only open `gofer token bootstrap` again, for whoever has the code that this leaves in the
    /// data directory; servers that share a PostgreSQL database may go on, any other must not be
    /// running
    #[arg(long, conflicts_with_all = ["check", "rotate_secrets_key"])]
    reset_bootstrap: bool,
    /// Where to listen, over the configuration's `server.listen`; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where everything local lies, over the configuration's `server.data_dir`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(crate) async fn run(args: ServerArgs, context: &Context) -> Result<Exit, Failure> {
    // Before it holds any secret.
    gofer_api::close_process();
    let mut config = ServerConfig::load(args.config.as_deref())
        .map_err(|error| config_failure(&error.problems))?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }

    if let Some(data_dir) = args.data_dir {
        config.server.data_dir = Some(data_dir);
    }

    let launcher = launcher(&mut config)?;
    if args.check {
        return check(config, launcher, context).await;
    }

    if args.rotate_secrets_key {
        return rotate_secrets_key(config, context).await;
    }

    config.server.links_dir = own_file::links_dir();
    if args.reset_bootstrap {
        let done = gofer_api::reset_bootstrap(config).await.map_err(Failure::refused)?;
        context.out.line(&done)?;
        context.out.note(
            "`gofer token bootstrap` makes a management token now; the other tokens \
                          are as they were",
        );
        return Ok(Exit::Ok);
    }

    start_logging(&config.log)?;
    let scheme = if config.serves_tls() { "https" } else { "http" };

    // Before the start, so that a signal during it is not lost.
    let (mut interrupts, mut hang_ups) = (Interrupts::catch()?, HangUps::catch()?);
    let server = Server::start(config, launcher).await.map_err(failure)?;
    context.out.line(&format!("listening on {scheme}://{}", server.addr()))?;
    let (stop, stopped) = oneshot::channel();
    let reload = server.reload();
    let signals = async {
        tokio::select! {
            _ = interrupts.next() => {}
            _ = hang_ups.reload_until_closed(reload) => {}
        }
        context.out.note("ending; tasks go on. Once more ends at once");
        let _ = stop.send(());
        interrupts.next().await
    };

    tokio::select! {
        result = server.run_until(async { drop(stopped.await) }) => result.map(|()| Exit::Ok).map_err(failure),
        interrupt = signals => Ok(interrupt.exit()),
    }
}

async fn check(
    config: ServerConfig,
    launcher: Launcher,
    context: &Context,
) -> Result<Exit, Failure> {
    let lines = gofer_api::check(config, launcher).await;
    let wrong = lines.iter().filter(|line| !line.ok).count();
    if context.out.is_json() {
        let json = |line: &CheckLine| serde_json::json!({"what": line.what, "ok": line.ok, "message": line.message});
        context.out.json_value(
            &serde_json::json!({ "checks": lines.iter().map(json).collect::<Vec<_>>() }),
        )?;
    } else {
        let verdict = |ok| if ok { "ok" } else { "WRONG" }.to_owned();
        let row =
            |line: &CheckLine| vec![line.what.clone(), verdict(line.ok), line.message.clone()];
        context.out.bytes(
            output::table(&["WHAT", "VERDICT", "MESSAGE"], lines.iter().map(row)).as_bytes(),
        )?;
    }

    match wrong {
        0 => Ok(Exit::Ok),
        wrong => Err(Failure::usage(format!(
            "a server of this configuration would not work: {wrong} checks failed"
        ))),
    }
}

async fn rotate_secrets_key(config: ServerConfig, context: &Context) -> Result<Exit, Failure> {
    let count = gofer_api::rotate_secrets_key(config).await.map_err(Failure::refused)?;
    context.out.line(&format!(
        "the secret store has a new key, and {count} values are encrypted with it"
    ))?;
    Ok(Exit::Ok)
}

/// The supervisors of local executions are this very binary, and so is the `gofer` that tasks call.
pub(crate) fn launcher(config: &mut ServerConfig) -> Result<Launcher, Failure> {
    let program = std::env::current_exe();
    let program =
        program.map_err(|error| Failure::refused(format!("cannot find this program: {error}")))?;
    let path_prepend = &mut config.scheduler.local.path_prepend;
    *path_prepend = path_prepend.take().or_else(|| program.parent().map(PathBuf::from));
    Ok((program, vec![SUPERVISOR.to_owned()]))
}

/// The hidden command; see [`launcher`].
pub(crate) const SUPERVISOR: &str = "__supervisor";

/// The server's log goes to stderr.
fn start_logging(log: &LogSection) -> Result<(), Failure> {
    let filter = log_filter(&log.level).map_err(|error| {
        Failure::usage(format!("log.level: `{}` is not a filter: {error}", log.level))
            .hint("write for example `info` or `gofer_engine=debug,info`")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => {
            use std::io::IsTerminal as _;
            builder.with_ansi(std::io::stderr().is_terminal()).init();
        }
    }
    Ok(())
}

/// Libraries that write down each frame and each statement with its parameters: `debug` is about
/// Gofer. Who names one of them gets what is asked for.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,reqwest=info,rustls=info,tokio_postgres=info,tonic=info,tower=info";

fn log_filter(level: &str) -> Result<EnvFilter, ParseError> {
    let asked_for = EnvFilter::try_new(level)?;
    if asked_for.max_level_hint().is_none_or(|most| most > LevelFilter::INFO) {
        // Of two directives for one target the later counts.
        return EnvFilter::try_new(format!("{QUIET},{level}"));
    }
    Ok(asked_for)
}

/// What a server that does not start is to the command line.
pub(crate) fn failure(error: ServerError) -> Failure {
    match &error {
        ServerError::Config(config) => config_failure(&config.problems),
        ServerError::Listen { addr, source } => {
            Failure::refused(format!("cannot listen on `{addr}`: {source}"))
                .hint("choose another port with `--listen`; port 0 takes any free one")
        }
        ServerError::File { .. } | ServerError::Exposed(_) | ServerError::Tls(_) => {
            Failure::usage(causes(&error))
        }
        _ => Failure::refused(causes(&error)),
    }
}

fn config_failure(problems: &[String]) -> Failure {
    match problems {
        [problem] => Failure::usage(problem.clone()),
        problems => problems
            .iter()
            .fold(Failure::usage("the configuration is wrong"), |failure, problem| {
                failure.detail(problem.clone())
            }),
    }
}
