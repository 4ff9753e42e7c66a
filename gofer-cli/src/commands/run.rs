//! `gofer run`: executions of pipelines.

use clap::{Args, Subcommand, ValueEnum};
use gofer_proto::v1::{
    CancelRunRequest, GetRunRequest, GetRunResponse, GetRunTimelineRequest, ListRunsRequest,
    ListRunsResponse, RetryRunRequest, Run, RunState, RunStatus, StartRunRequest, TaskRun,
};

use super::Variables;
use super::paging::{PageArgs, note_more};
use super::refs::{Number, RunRef, resolve};
use super::run_logs::Attempts;
use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::{Exit, Failure};
use crate::follow::logs::LogMode;
use crate::follow::{self, OnInterrupt, Options, RunKey};
use crate::interrupts::Interrupts;
use crate::{format, output};

/// Tasks whose time a person is shown.
const TIMELINE_TASKS: u32 = 50;
/// Tasks whose time a program is given: one page of the contract.
const JSON_TIMELINE_TASKS: u32 = 500;

/// Tasks of a retry that are named.
const NAMED_TASKS: usize = 20;
/// The kind of the reason why a task of a retry is complete from the beginning.
const REUSED: &str = "reused";

/// Starts runs, looks at them, follows, cancels and repeats them
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    /// Starts a run of a pipeline
    #[command(after_help = "\
Examples:
  gofer run start ci
  gofer run start ci --var BRANCH=main --follow
  gofer run start ci --version 3 --idempotency-key nightly-2026-11-24

A value is plain text: `secret{{key}}` in it stays these characters, unless the pipeline lists the variable as a template.
A pipeline may list what a run may set (`run_variables`); PATH, LD_PRELOAD and the like have to be listed.")]
    Start(StartArgs),
    /// Lists runs, newest first
    #[command(
        after_help = "Examples:\n  gofer run list\n  gofer run list ci --status failed --limit 10"
    )]
    List(ListArgs),
    /// Shows a run with its tasks, and where its time went and why
    #[command(after_help = "Examples:\n  gofer run get ci\n  gofer run get ci 7 -o json")]
    Get(RunRef),
    /// Follows a run to its end; ends with 1 when it fails
    #[command(after_help = "Examples:\n  gofer run follow ci\n  gofer run follow ci 7 --logs")]
    Follow {
        #[command(flatten)]
        run: RunRef,
        /// Show all logs, not only those of failing tasks
        #[arg(long)]
        logs: bool,
    },
    /// Asks for a run to be stopped
    #[command(
        after_help = "Examples:\n  gofer run cancel ci 7\n  gofer run cancel ci latest --force"
    )]
    Cancel(CancelArgs),
    /// Starts a run again, as a new one of the same version with the same variables
    #[command(
        after_help = "Examples:\n  gofer run retry ci 7\n  gofer run retry ci 7 --from-failed \
                      --follow"
    )]
    Retry(RetryArgs),
    /// Shows the logs of all tasks of a run, each line with its task's name
    #[command(after_help = "\
Examples:
  gofer run logs ci
  gofer run logs ci 7 --follow
  gofer run logs ci 7 --attempt all")]
    Logs {
        #[command(flatten)]
        run: RunRef,
        /// The attempt of each task, or `all` [default: the latest; with --follow all]
        #[arg(long, value_name = "N|all")]
        attempt: Option<Attempts>,
        /// Go on until the run is complete
        #[arg(long, short)]
        follow: bool,
        /// Put before each line when it was written, in UTC
        #[arg(long)]
        timestamps: bool,
    },
}

#[derive(Debug, Args)]
struct StartArgs {
    /// The pipeline's name
    pipeline: String,
    #[command(flatten)]
    variables: Variables,
    /// The version to execute [default: the latest]
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// Starts nothing when a run of this pipeline with the same key exists, and shows that one
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    #[command(flatten)]
    follow: FollowArgs,
}

#[derive(Debug, Args)]
struct FollowArgs {
    /// Follow the run to its end; ends with 1 when it fails
    #[arg(long, short)]
    follow: bool,
    /// With --follow: show all logs, not only those of failing tasks
    #[arg(long, requires = "follow")]
    logs: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only runs of this pipeline
    pipeline: Option<String>,
    /// Only runs in this state; may be repeated
    #[arg(long, value_enum, value_name = "STATE")]
    state: Vec<State>,
    /// Only runs that came to this; may be repeated
    #[arg(long, value_enum, value_name = "STATUS")]
    status: Vec<Status>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
struct CancelArgs {
    /// The pipeline's name
    pipeline: String,
    /// The run's number, or `latest`
    #[arg(value_name = "RUN")]
    run: Number,
    /// Kill its tasks at once, without the grace period
    #[arg(long)]
    force: bool,
    /// Why, for the run's record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
struct RetryArgs {
    /// The pipeline's name
    pipeline: String,
    /// The number of the run to repeat, or `latest`; it must be complete
    #[arg(value_name = "RUN")]
    run: Number,
    /// Take over the tasks that were successful, and execute only the others
    #[arg(long)]
    from_failed: bool,
    #[command(flatten)]
    follow: FollowArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Pending,
    Running,
    Complete,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Successful,
    Failed,
    Cancelled,
}

impl From<State> for RunState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Running => Self::Running,
            State::Complete => Self::Complete,
        }
    }
}

impl From<Status> for RunStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Successful => Self::Successful,
            Status::Failed => Self::Failed,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

pub(crate) async fn run(args: RunArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client().await?;
    match args.command {
        RunCommand::Start(args) => start(context, &client, args).await,
        RunCommand::List(args) => list(context, &client, args).await.map(|()| Exit::Ok),
        RunCommand::Get(run) => get(context, &client, run).await.map(|()| Exit::Ok),
        RunCommand::Follow { run, logs } => {
            let key = resolve(context, &client, run.pipeline, run.run).await?;
            follow::follow(&client, &context.out, key, options(logs), &mut Interrupts::catch()?)
                .await
        }
        RunCommand::Cancel(args) => cancel(context, &client, args).await.map(|()| Exit::Ok),
        RunCommand::Retry(args) => retry(context, &client, args).await,
        RunCommand::Logs { run, attempt, follow, timestamps } => {
            let key = resolve(context, &client, run.pipeline, run.run).await?;
            super::run_logs::show(context, &client, key, attempt, follow, timestamps).await
        }
    }
}

async fn start(context: &Context, client: &Client, args: StartArgs) -> Result<Exit, Failure> {
    let request = StartRunRequest {
        namespace: context.namespace(),
        pipeline: args.pipeline,
        version: args.version.unwrap_or(0),
        variables: args.variables.into_map()?,
        idempotency_key: args.idempotency_key,
    };
    let response = client.runs().start_run(unary(request)).await?.into_inner();
    let run = response.run.clone().unwrap_or_default();
    if args.follow.follow {
        return follow_new(context, client, &run, "", args.follow.logs).await;
    }
    context.out.done(&response, |_| format!("{} started", format::run_name(&run)))?;
    Ok(Exit::Ok)
}

async fn retry(context: &Context, client: &Client, args: RetryArgs) -> Result<Exit, Failure> {
    let RunKey { namespace, pipeline, run } =
        resolve(context, client, args.pipeline, args.run).await?;
    let request = RetryRunRequest { namespace, pipeline, run, from_failed: args.from_failed };
    let response = client.runs().retry_run(unary(request)).await?.into_inner();
    let run = response.run.clone().unwrap_or_default();
    let speaks = !context.out.is_json() && !context.out.is_quiet();
    let split = if args.from_failed && speaks { split(client, &run).await? } else { String::new() };

    if args.follow.follow {
        follow_new(context, client, &run, &split, args.follow.logs).await
    } else {
        let sentence =
            || format!("{} started, a retry of #{}{split}", format::run_name(&run), run.retry_of);
        context.out.done(&response, |_| sentence())?;
        Ok(Exit::Ok)
    }
}

/// Which tasks a retry executes and which it takes over, on lines of their own.
async fn split(client: &Client, run: &Run) -> Result<String, Failure> {
    let (tasks, _) = super::task::list(client, &RunKey::of(run), &PageArgs::everything()).await?;
    let is_reused =
        |task: &&TaskRun| task.reason.as_ref().is_some_and(|reason| reason.kind == REUSED);
    let (reused, executed): (Vec<_>, Vec<_>) = tasks.iter().partition(is_reused);
    Ok(format!("\n  executed: {}\n  taken over: {}", names(&executed), names(&reused)))
}

fn names(tasks: &[&TaskRun]) -> String {
    let named: Vec<_> = tasks.iter().take(NAMED_TASKS).map(|task| task.task.as_str()).collect();
    match (tasks.len(), tasks.len().saturating_sub(NAMED_TASKS)) {
        (0, _) => "none".to_owned(),
        (_, 0) => named.join(", "),
        (_, more) => format!("{} and {more} more", named.join(", ")),
    }
}

async fn follow_new(
    context: &Context,
    client: &Client,
    run: &Run,
    details: &str,
    logs: bool,
) -> Result<Exit, Failure> {
    if !context.out.is_json() {
        context.out.note(&format!("{} started{details}", format::run_name(run)));
    }
    follow::follow(client, &context.out, RunKey::of(run), options(logs), &mut Interrupts::catch()?)
        .await
}

fn options(logs: bool) -> Options {
    let logs = if logs { LogMode::All } else { LogMode::Failed };
    Options { logs, states: true, timestamps: false, on_interrupt: OnInterrupt::Leave }
}

async fn list(context: &Context, client: &Client, args: ListArgs) -> Result<(), Failure> {
    let filter = ListRunsRequest {
        namespace: context.namespace(),
        pipeline: args.pipeline.unwrap_or_default(),
        states: args.state.into_iter().map(|state| RunState::from(state).into()).collect(),
        statuses: args.status.into_iter().map(|status| RunStatus::from(status).into()).collect(),
        ..ListRunsRequest::default()
    };

    let (runs, next_page_token) = args
        .page
        .collect(async |page_size, page_token| {
            let request = ListRunsRequest { page_size, page_token, ..filter.clone() };
            let page = client.runs().list_runs(unary(request)).await?.into_inner();
            Ok((page.runs, page.next_page_token))
        })
        .await?;

    note_more(&context.out, &next_page_token);
    context.out.show(&ListRunsResponse { runs, next_page_token }, |response| {
        output::table(
            &["PIPELINE", "RUN", "STATUS", "STARTED", "TIME", "VERSION", "BY", "REASON"],
            response.runs.iter().map(|run| {
                vec![
                    run.pipeline.clone(),
                    run.run.to_string(),
                    format::run_state(run.state(), run.status()),
                    format::time(run.created_at.as_ref()),
                    format::took(run.started_at.as_ref(), run.ended_at.as_ref()),
                    run.version.to_string(),
                    format::initiator(run.initiator.as_ref()),
                    format::reason(run.reason.as_ref()),
                ]
            }),
        )
    })
}

async fn get(context: &Context, client: &Client, run: RunRef) -> Result<(), Failure> {
    let RunKey { namespace, pipeline, run } =
        resolve(context, client, run.pipeline, run.run).await?;
    let request = GetRunRequest { namespace: namespace.clone(), pipeline: pipeline.clone(), run };
    let response = client.runs().get_run(unary(request)).await?.into_inner();
    let page_size = if context.out.is_json() { JSON_TIMELINE_TASKS } else { TIMELINE_TASKS };
    let request = GetRunTimelineRequest {
        namespace,
        pipeline,
        run,
        page_size,
        ..GetRunTimelineRequest::default()
    };

    let timeline = client.runs().get_run_timeline(unary(request)).await?.into_inner();
    if context.out.is_json() {
        let mut value = gofer_proto::json::to_json(&response);
        value["timeline"] = gofer_proto::json::to_json(&timeline);
        return context.out.json_value(&value);
    }

    context.out.bytes(describe(&response).as_bytes())?;
    context.out.bytes(format!("\n{}", super::timeline::table(&timeline.spans)).as_bytes())?;
    if !timeline.next_page_token.is_empty() {
        context.out.note(&format!(
            "the time of the first {TIMELINE_TASKS} tasks is shown; --output json has more"
        ));
    }

    Ok(())
}

async fn cancel(context: &Context, client: &Client, args: CancelArgs) -> Result<(), Failure> {
    let RunKey { namespace, pipeline, run } =
        resolve(context, client, args.pipeline, args.run).await?;
    let request =
        CancelRunRequest { namespace, pipeline, run, force: args.force, reason: args.reason };
    let response = client.runs().cancel_run(unary(request)).await?.into_inner();

    context.out.done(&response, |response| {
        let run = response.run.clone().unwrap_or_default();
        match run.state() {
            RunState::Complete => {
                format!(
                    "{} is {}",
                    format::run_name(&run),
                    format::run_state(run.state(), run.status())
                )
            }
            _ => format!("{} is being cancelled", format::run_name(&run)),
        }
    })
}

fn describe(response: &GetRunResponse) -> String {
    let run = response.run.clone().unwrap_or_default();
    let retry_of = if run.retry_of == 0 { String::new() } else { format!("#{}", run.retry_of) };
    let mut pairs = vec![
        ("run", format::run_name(&run)),
        ("status", format::run_state(run.state(), run.status())),
        ("reason", format::reason(run.reason.as_ref())),
        ("version", run.version.to_string()),
        ("started by", format::initiator(run.initiator.as_ref())),
        ("retry of", retry_of),
        ("created", format::time(run.created_at.as_ref())),
        ("ended", format::time(run.ended_at.as_ref())),
        ("time", format::took(run.started_at.as_ref(), run.ended_at.as_ref())),
    ];

    pairs.extend(run.variables.iter().map(|(name, value)| ("variable", format!("{name}={value}"))));
    format!("{}\n{}", output::fields(&pairs), follow::task_table(response.task_runs.iter()))
}
