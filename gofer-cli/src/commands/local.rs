//! `gofer local`: one run on this machine, by a server that lives as long as the command.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use clap::Args;
use gofer_api::config::ServerConfig;
use gofer_api::{Owner, Server};
use gofer_proto::v1::{CreateNamespaceRequest, PipelineSpec, StartRunRequest};
use tempfile::TempDir;

use super::local_secrets::SecretArgs;
use super::{Variables, server, up};
use crate::client::{Client, Target, unary};
use crate::compile::{self, Source};
use crate::context::Context;
use crate::errors::{Exit, Failure};
use crate::follow::logs::LogMode;
use crate::follow::{self, OnInterrupt, Options, RunKey};
use crate::interrupts::Interrupts;

/// Runs a pipeline on this machine, without a server, and ends with 1 when it fails
///
/// The pipeline's tasks run as processes. What the run leaves behind, its objects and logs, goes
/// with the command unless --keep is given. Ctrl-C cancels the run; once more kills its tasks.
/// SIGTERM, SIGQUIT and a terminal that is closed do the same (unless `nohup` says otherwise), and
/// the exit code is then 128 and the signal's number. Whatever else ends the command, nothing that
/// it started goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gofer local examples/rust/ci                        compile and run the Rust program of a folder
  gofer local examples/rust/hello --var NAME=you --logs
  ./my-pipeline | gofer local -                       run what a program prints
  GOFER_SECRET_GREETING_TOKEN=abc gofer local examples/rust/secrets --secret greeting_token
  gofer local --keep examples/rust/objects            then: gofer server --data-dir <the folder it names>")]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    variables: Variables,
    #[command(flatten)]
    secrets: SecretArgs,
    /// Show all logs, not only those of failing tasks
    #[arg(long)]
    logs: bool,
    /// Keep the folder with the run's database, objects and logs, and say where it is
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(args: LocalArgs, context: &Context) -> Result<Exit, Failure> {
    // Before it holds any secret.
    gofer_api::close_process();
    let secrets = args.secrets.read()?;
    let variables = args.variables.into_map()?;

    // From here on there is something to clean up.
    let mut interrupts = Interrupts::catch_all()?;
    let spec = compile::spec(&args.source, &mut interrupts).await?;

    let dir = data_dir()?;
    let owner = owner(&dir, args.keep)?;
    let mut config = ServerConfig::ephemeral(dir.path());
    config.scheduler.local.owner = Some(owner.clone());

    let launcher = server::launcher(&mut config)?;
    let server = Server::start(config, launcher).await.map_err(server::failure)?;
    let logs = if args.logs { LogMode::All } else { LogMode::Failed };
    let options =
        Options { logs, states: true, timestamps: false, on_interrupt: OnInterrupt::Cancel };
    let result = async {
        let client = connect(&server).await?;
        let start = StartRunRequest {
            namespace: context.namespace(),
            pipeline: spec.name.clone(),
            variables,
            ..StartRunRequest::default()
        };

        register(&client, &start.namespace, spec).await?;
        secrets.put(&client, &start.namespace, &start.pipeline).await?;
        let run = client.runs().start_run(unary(start)).await?.into_inner().run.unwrap_or_default();

        follow::follow(&client, &context.out, RunKey::of(&run), options, &mut interrupts).await
    }
    .await;

    let ended = server.shutdown().await.map_err(server::failure);
    if args.keep {
        let path = dir.keep();
        context.out.note(&format!(
            "everything is kept in `{}`; look with `gofer server --data-dir` there",
            path.display()
        ));
    } else {
        context.remove_at_the_end(dir, owner);
    }

    let exit = result?;
    ended.map(|()| exit)
}

/// This process as the owner of what it starts, and of the folder unless that is kept.
fn owner(dir: &TempDir, keep: bool) -> Result<Owner, Failure> {
    let failed = |error| Failure::refused(format!("cannot set up the end of the run: {error}"));
    let folder = std::path::absolute(dir.path()).map_err(failed)?;
    Owner::new((!keep).then_some(folder)).map_err(failed)
}

fn data_dir() -> Result<TempDir, Failure> {
    let private = std::fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix("gofer-local-").permissions(private).tempdir();
    made.map_err(|error| {
        let parent: PathBuf = std::env::temp_dir();
        Failure::usage(format!("cannot make a folder in `{}`: {error}", parent.display()))
            .hint("set TMPDIR to a folder you may write to")
    })
}

async fn connect(server: &Server) -> Result<Client, Failure> {
    let addr = format!("http://{}", server.addr());
    let target = Target { addr, token: server.management_token().cloned(), ..Target::default() };
    Client::connect(&target).await
}

async fn register(client: &Client, namespace: &str, spec: PipelineSpec) -> Result<(), Failure> {
    if namespace != "default" {
        let request =
            CreateNamespaceRequest { id: namespace.to_owned(), description: String::new() };
        client.namespaces().create_namespace(unary(request)).await?;
    }
    up::register(client, namespace.to_owned(), spec, false, None).await.map(drop)
}
