//! `gofer up`: registers a pipeline.

use clap::Args;
use gofer_proto::v1::{
    PipelineChange, PipelineChangeKind, PipelineSpec, RegisterPipelineRequest,
    RegisterPipelineResponse,
};

use crate::client::{Client, unary};
use crate::compile::{self, Source};
use crate::context::Context;
use crate::errors::Failure;
use crate::interrupts::Interrupts;
use crate::output::printable;

/// Registers a pipeline: compiles it, shows what changes, and makes a new version of it
///
/// A spec that is the same as the latest version changes nothing, so the command may be repeated
/// safely.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gofer up examples/rust/hello            compile and register the Rust program of a folder
  gofer up --plan examples/rust/hello     only show what would change
  ./my-pipeline | gofer up -n web -       register what a program prints
  gofer up pipeline.json                  register a spec written as JSON")]
pub(crate) struct UpArgs {
    #[command(flatten)]
    source: Source,
    /// Only show what would change
    #[arg(long)]
    plan: bool,
    /// Register only if this is the latest version, so that nobody is overwritten unseen
    #[arg(long, value_name = "VERSION")]
    expect: Option<u64>,
}

pub(crate) async fn run(args: UpArgs, context: &Context) -> Result<(), Failure> {
    let spec = compile::spec(&args.source, &mut Interrupts::catch_all()?).await?;
    let name = spec.name.clone();
    let client = context.client().await?;
    let response = register(&client, context.namespace(), spec, args.plan, args.expect).await?;
    context
        .out
        .show(&response, |response| describe(response, &context.namespace(), &name, args.plan))
}

/// Registers the spec, or only plans to.
pub(crate) async fn register(
    client: &Client,
    namespace: String,
    spec: PipelineSpec,
    plan_only: bool,
    expected_version: Option<u64>,
) -> Result<RegisterPipelineResponse, Failure> {
    let request =
        RegisterPipelineRequest { namespace, spec: Some(spec), plan_only, expected_version };
    Ok(client.pipelines().register_pipeline(unary(request)).await?.into_inner())
}

fn describe(
    response: &RegisterPipelineResponse,
    namespace: &str,
    name: &str,
    plan: bool,
) -> String {
    let mut text: String = response.changes.iter().map(change_line).collect();
    let version = response.version;
    text += &match (response.changed, plan) {
        (false, _) => format!("{namespace}/{name} is unchanged: version {version}\n"),
        (true, true) => format!("{namespace}/{name} would become version {version}\n"),
        (true, false) => format!("{namespace}/{name} is now version {version}\n"),
    };
    text
}

/// `+ tasks.test: {…}`, `- variables.A: "1"`, `~ tasks.build.timeout: "60s" → "90s"`.
fn change_line(change: &PipelineChange) -> String {
    let PipelineChange { path, before, after, .. } = change;
    let line = match change.kind() {
        PipelineChangeKind::Added => format!("+ {path}: {after}"),
        PipelineChangeKind::Removed => format!("- {path}: {before}"),
        PipelineChangeKind::Modified | PipelineChangeKind::Unspecified => {
            format!("~ {path}: {before} → {after}")
        }
    };
    printable(&line) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_lines_with_a_sign() {
        let change =
            |kind: PipelineChangeKind, path: &str, before: &str, after: &str| PipelineChange {
                kind: kind.into(),
                path: path.into(),
                before: before.into(),
                after: after.into(),
            };

        let response = RegisterPipelineResponse {
            version: 2,
            changed: true,
            changes: vec![
                change(PipelineChangeKind::Added, "tasks.test", "", "{}"),
                change(PipelineChangeKind::Removed, "variables.A", "\"1\"", ""),
                change(PipelineChangeKind::Modified, "tasks.build.timeout", "\"60s\"", "\"90s\""),
            ],
            ..RegisterPipelineResponse::default()
        };

        let expected = "+ tasks.test: {}\n- variables.A: \"1\"\n~ tasks.build.timeout: \"60s\" → \
                        \"90s\"\ndefault/ci would become version 2\n";
        assert_eq!(describe(&response, "default", "ci", true), expected);
    }
}
