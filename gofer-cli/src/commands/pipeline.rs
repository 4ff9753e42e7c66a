//! `gofer pipeline`: what is registered.

use std::io::{BufRead as _, IsTerminal as _};

use clap::{Args, Subcommand};
use gofer_proto::v1::{
    DeletePipelineRequest, DependencyCondition, DisablePipelineRequest, EnablePipelineRequest,
    GetPipelineRequest, GetPipelineVersionRequest, ListPipelineVersionsRequest,
    ListPipelineVersionsResponse, ListPipelinesRequest, ListPipelinesResponse, Pipeline,
    PipelineSpec, PipelineVersion, TaskSpec, task_spec,
};

use super::paging::{PageArgs, note_more};
use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::Failure;
use crate::{format, output};

/// Looks at registered pipelines, and enables, disables or deletes them
#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    #[command(subcommand)]
    command: PipelineCommand,
}

#[derive(Debug, Subcommand)]
enum PipelineCommand {
    /// Lists the pipelines of the namespace
    #[command(
        after_help = "Examples:\n  gofer pipeline list\n  gofer pipeline list -n web -o json"
    )]
    List(PageArgs),
    /// Shows a pipeline with its tasks; as JSON with its whole spec
    #[command(
        after_help = "Examples:\n  gofer pipeline get ci\n  gofer pipeline get ci --version 3 -o \
                      json"
    )]
    Get {
        /// The pipeline's name
        pipeline: String,
        /// The version whose tasks are shown [default: the latest]
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Lists the versions of a pipeline, newest first
    #[command(after_help = "Examples:\n  gofer pipeline versions ci")]
    Versions {
        /// The pipeline's name
        pipeline: String,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Lets new runs of a pipeline start again
    #[command(after_help = "Examples:\n  gofer pipeline enable ci")]
    Enable {
        /// The pipeline's name
        pipeline: String,
    },
    /// Refuses new runs of a pipeline; active runs go on
    #[command(after_help = "Examples:\n  gofer pipeline disable ci")]
    Disable {
        /// The pipeline's name
        pipeline: String,
    },
    /// Deletes a pipeline with its versions, runs, objects, secrets and logs
    #[command(
        after_help = "Examples:\n  gofer pipeline delete ci\n  gofer pipeline delete ci --yes"
    )]
    Delete {
        /// The pipeline's name
        pipeline: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(args: PipelineArgs, context: &Context) -> Result<(), Failure> {
    let namespace = context.namespace();
    let client = context.client().await?;
    let mut service = client.pipelines();
    let out = &context.out;

    match args.command {
        PipelineCommand::List(page) => list(context, &client, &page).await,
        PipelineCommand::Get { pipeline, version } => {
            get(context, &client, pipeline, version).await
        }
        PipelineCommand::Versions { pipeline, page } => {
            versions(context, &client, pipeline, &page).await
        }
        PipelineCommand::Enable { pipeline: name } => {
            let request =
                EnablePipelineRequest { namespace: namespace.clone(), name: name.clone() };
            let response = service.enable_pipeline(unary(request)).await?.into_inner();
            out.done(&response, |_| format!("{namespace}/{name} is enabled"))
        }
        PipelineCommand::Disable { pipeline: name } => {
            let request =
                DisablePipelineRequest { namespace: namespace.clone(), name: name.clone() };
            let response = service.disable_pipeline(unary(request)).await?.into_inner();
            out.done(&response, |_| format!("{namespace}/{name} is disabled"))
        }
        PipelineCommand::Delete { pipeline: name, yes } => {
            if !yes {
                confirm(context, &name)?;
            }
            let request =
                DeletePipelineRequest { namespace: namespace.clone(), name: name.clone() };
            let response = service.delete_pipeline(unary(request)).await?.into_inner();
            out.done(&response, |_| format!("{namespace}/{name} is deleted"))
        }
    }
}

async fn list(context: &Context, client: &Client, page: &PageArgs) -> Result<(), Failure> {
    let (pipelines, next_page_token) = page
        .collect(async |page_size, page_token| {
            let request =
                ListPipelinesRequest { namespace: context.namespace(), page_size, page_token };
            let page = client.pipelines().list_pipelines(unary(request)).await?.into_inner();
            Ok((page.pipelines, page.next_page_token))
        })
        .await?;

    note_more(&context.out, &next_page_token);
    context.out.show(&ListPipelinesResponse { pipelines, next_page_token }, |response| {
        output::table(
            &["NAME", "VERSION", "ENABLED", "UPDATED", "DESCRIPTION"],
            response.pipelines.iter().map(|pipeline| {
                vec![
                    pipeline.name.clone(),
                    pipeline.latest_version.to_string(),
                    yes_no(pipeline.enabled),
                    format::time(pipeline.updated_at.as_ref()),
                    pipeline.description.clone(),
                ]
            }),
        )
    })
}

async fn get(
    context: &Context,
    client: &Client,
    name: String,
    version: Option<u64>,
) -> Result<(), Failure> {
    let namespace = context.namespace();
    let request = GetPipelineRequest { namespace: namespace.clone(), name: name.clone() };
    let pipeline = client.pipelines().get_pipeline(unary(request)).await?.into_inner();
    let request =
        GetPipelineVersionRequest { namespace, pipeline: name, version: version.unwrap_or(0) };
    let version = client.pipelines().get_pipeline_version(unary(request)).await?.into_inner();
    if context.out.is_json() {
        // The fields of both answers, which have different names, in one object.
        let mut both = gofer_proto::json::to_json(&pipeline);
        both["version"] = gofer_proto::json::to_json(&version)["version"].take();
        return context.out.json_value(&both);
    }
    let pipeline = pipeline.pipeline.unwrap_or_default();
    context.out.bytes(describe(&pipeline, &version.version.unwrap_or_default()).as_bytes())
}

async fn versions(
    context: &Context,
    client: &Client,
    pipeline: String,
    page: &PageArgs,
) -> Result<(), Failure> {
    let (versions, next_page_token) = page
        .collect(async |page_size, page_token| {
            let (namespace, pipeline) = (context.namespace(), pipeline.clone());
            let request =
                ListPipelineVersionsRequest { namespace, pipeline, page_size, page_token };
            let page =
                client.pipelines().list_pipeline_versions(unary(request)).await?.into_inner();
            Ok((page.versions, page.next_page_token))
        })
        .await?;

    note_more(&context.out, &next_page_token);
    context.out.show(&ListPipelineVersionsResponse { versions, next_page_token }, |response| {
        output::table(
            &["VERSION", "REGISTERED", "BY", "DIGEST"],
            response.versions.iter().map(|version| {
                vec![
                    version.version.to_string(),
                    format::time(version.created_at.as_ref()),
                    version.registered_by.clone(),
                    version.digest.chars().take(12).collect(),
                ]
            }),
        )
    })
}

fn describe(pipeline: &Pipeline, version: &PipelineVersion) -> String {
    let spec = version.spec.clone().unwrap_or_default();
    let parallelism =
        if spec.parallelism == 0 { String::new() } else { spec.parallelism.to_string() };
    let fields = output::fields(&[
        ("name", format!("{}/{}", pipeline.namespace, pipeline.name)),
        ("description", spec.description.clone()),
        ("enabled", yes_no(pipeline.enabled)),
        ("version", format!("{} (latest: {})", version.version, pipeline.latest_version)),
        (
            "registered",
            format!("{} by {}", format::time(version.created_at.as_ref()), version.registered_by),
        ),
        ("parallelism", parallelism),
    ]);
    format!("{fields}\n{}", tasks(&spec))
}

fn tasks(spec: &PipelineSpec) -> String {
    output::table(
        &["TASK", "WHAT", "AFTER"],
        spec.tasks.iter().map(|task| vec![task.id.clone(), what(task), after(task)]),
    )
}

/// What the task executes, in one short line.
fn what(task: &TaskSpec) -> String {
    const SHOWN: usize = 60;

    let text = match &task.kind {
        Some(task_spec::Kind::Custom(custom)) => {
            let words = [custom.image.as_str()].into_iter().filter(|image| !image.is_empty());
            words
                .chain(custom.entrypoint.iter().chain(&custom.command).map(String::as_str))
                .collect::<Vec<_>>()
                .join(" ")
        }
        Some(task_spec::Kind::Common(common)) => format!("common task {}", common.name),
        None => String::new(),
    };

    if text.chars().count() <= SHOWN {
        text
    } else {
        text.chars().take(SHOWN - 1).chain(['…']).collect()
    }
}

/// The task's parents: `build, test (failure)`.
fn after(task: &TaskSpec) -> String {
    let parent = |dependency: &gofer_proto::v1::Dependency| match dependency.condition() {
        DependencyCondition::Success | DependencyCondition::Unspecified => dependency.task.clone(),
        condition => {
            format!(
                "{} ({})",
                dependency.task,
                format::word(condition.as_str_name(), "DEPENDENCY_CONDITION_")
            )
        }
    };
    task.depends_on.iter().map(parent).collect::<Vec<_>>().join(", ")
}

/// Asks on the terminal; without one the answer is no.
fn confirm(context: &Context, name: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "deleting `{name}` also deletes its runs, objects, secrets and logs"
        ))
        .hint("add `--yes` when that is what you want"));
    }

    let question = format!(
        "delete `{name}` with all its runs, objects, secrets and logs? Type its name to confirm: "
    );
    context.out.error_bytes(question.as_bytes());

    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if answer.trim() == name => Ok(()),
        _ => Err(Failure::usage("nothing was deleted")),
    }
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
