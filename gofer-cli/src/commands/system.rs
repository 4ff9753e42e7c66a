//! `gofer system`: the server itself.

use clap::{Args, Subcommand};
use gofer_proto::v1::{BackendKind, GetSystemInfoRequest, GetSystemInfoResponse};

use crate::client::unary;
use crate::context::Context;
use crate::errors::Failure;
use crate::{format, output};

/// Looks at the server itself
#[derive(Debug, Args)]
pub(crate) struct SystemArgs {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// Shows version, backends and load of the server
    #[command(after_help = "Examples:\n  gofer system info\n  gofer system info --check -o json")]
    Info {
        /// Make every backend's check now, instead of showing the last known results
        #[arg(long)]
        check: bool,
    },
}

pub(crate) async fn run(args: SystemArgs, context: &Context) -> Result<(), Failure> {
    let SystemCommand::Info { check } = args.command;
    let client = context.client().await?;
    let request = GetSystemInfoRequest { check_backends: check };
    let info = client.system().get_system_info(unary(request)).await?.into_inner();
    context.out.show(&info, describe)
}

fn describe(info: &GetSystemInfoResponse) -> String {
    let mode = if info.dev_mode { "dev: no tokens, no TLS, this machine only" } else { "" };
    let mut text = output::fields(&[
        ("version", info.version.clone()),
        ("commit", info.commit.clone()),
        ("server id", info.server_id.clone()),
        ("started", format::time(info.started_at.as_ref())),
        ("mode", mode.to_owned()),
        ("active runs", info.active_runs.to_string()),
        ("pending runs", info.pending_runs.to_string()),
        ("executions", info.executions_in_flight.to_string()),
        ("last event", info.last_event_id.to_string()),
        (
            "namespaces",
            if info.isolates_namespaces { "isolated by the scheduler" } else { "no boundary here" }
                .to_owned(),
        ),
    ]);

    text.push('\n');
    text + &output::table(
        &["BACKEND", "PRODUCT", "OK", "CHECKED", "MESSAGE"],
        info.backends.iter().map(|backend| {
            vec![
                format::word(
                    BackendKind::try_from(backend.kind).unwrap_or_default().as_str_name(),
                    "BACKEND_KIND_",
                ),
                backend.product.clone(),
                if backend.ok { "yes" } else { "no" }.to_owned(),
                format::time(backend.checked_at.as_ref()),
                backend.message.clone(),
            ]
        }),
    )
}
