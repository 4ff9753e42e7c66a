//! `gofer task`: one task inside one run.

use std::borrow::Cow;
use std::io::IsTerminal as _;

use clap::{Args, Subcommand};
use gofer_proto::json::to_json;
use gofer_proto::v1::{
    Attempt, CancelTaskRunRequest, GetTaskRunRequest, ListTaskRunsRequest, ListTaskRunsResponse,
    LogStream, TaskRun, TaskRunState,
};

use super::exec::{self, ExecArgs};
use super::paging::{PageArgs, note_more};
use super::refs::{RunRef, TaskRef, resolve};
use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::{Exit, Failure};
use crate::follow::logs::LogReader;
use crate::follow::{self, RunKey, Stamps, Timeless};
use crate::{format, output, terminal};

/// Looks at the tasks of a run: states, attempts, logs
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    /// Lists the tasks of a run
    #[command(after_help = "Examples:\n  gofer task list ci\n  gofer task list ci 7 -o json")]
    List {
        #[command(flatten)]
        run: RunRef,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows one task with all its attempts
    #[command(
        after_help = "Examples:\n  gofer task get ci 7 build\n  gofer task get ci latest build"
    )]
    Get(TaskRef),
    /// Writes what a task wrote, in that order; the stderr of a task with separate outputs to
    /// stderr
    #[command(after_help = "\
Examples:
  gofer task logs ci 7 build
  gofer task logs ci latest build --follow --timestamps
  gofer task logs ci 7 build --attempt 1 2> stderr.txt

At a terminal only text and colours are shown; files and programs get every byte.")]
    Logs {
        #[command(flatten)]
        task: TaskRef,
        /// The attempt [default: the latest]
        #[arg(long, value_name = "N")]
        attempt: Option<u32>,
        /// Go on until the attempt has ended
        #[arg(long, short)]
        follow: bool,
        /// Put before each line when it was written, in UTC
        #[arg(long)]
        timestamps: bool,
        /// Every byte as the task wrote it, also to a terminal, which may obey it
        #[arg(long)]
        raw: bool,
    },
    /// Runs a command in a running task, by default a shell; its exit code is the command's
    #[command(after_help = "\
Examples:
  gofer task exec ci latest build
  gofer task exec ci 7 build -- ls -l
  gofer task exec ci 7 build -- sh -c 'cat > fix.patch' < fix.patch")]
    Exec(ExecArgs),
    /// Asks for one task to be stopped; the run goes on
    #[command(
        after_help = "Examples:\n  gofer task cancel ci 7 build\n  gofer task cancel ci 7 build \
                      --force"
    )]
    Cancel {
        #[command(flatten)]
        task: TaskRef,
        /// Kill it at once, without the grace period
        #[arg(long)]
        force: bool,
        /// Why, for the record
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// The exit code is that of a command that was run in a task.
pub(crate) async fn run(args: TaskArgs, context: &Context) -> Result<u8, Failure> {
    let client = context.client().await?;
    let done = match args.command {
        TaskCommand::Exec(args) => return exec::run(args, context, &client).await,
        TaskCommand::List { run, page } => {
            let key = resolve(context, &client, run.pipeline, run.run).await?;
            let (task_runs, next_page_token) = list(&client, &key, &page).await?;
            note_more(&context.out, &next_page_token);
            let response = ListTaskRunsResponse { task_runs, next_page_token };
            context.out.show(&response, |response| follow::task_table(response.task_runs.iter()))
        }
        TaskCommand::Get(task) => get(context, &client, task).await,
        TaskCommand::Logs { task, attempt, follow, timestamps, raw } => {
            let key = resolve(context, &client, task.pipeline, task.run).await?;
            let request = key.log_request(&task.task, attempt.unwrap_or(0), follow);
            task_logs(context, LogReader::new(client, request), timestamps, raw).await
        }
        TaskCommand::Cancel { task, force, reason } => {
            cancel(context, &client, task, force, reason).await
        }
    };

    done.map(|()| Exit::Ok as u8)
}

pub(crate) async fn list(
    client: &Client,
    key: &RunKey,
    page: &PageArgs,
) -> Result<(Vec<TaskRun>, String), Failure> {
    page.collect(async |page_size, page_token| {
        let RunKey { namespace, pipeline, run } = key.clone();
        let request = ListTaskRunsRequest { namespace, pipeline, run, page_size, page_token };
        let page = client.task_runs().list_task_runs(unary(request)).await?.into_inner();
        Ok((page.task_runs, page.next_page_token))
    })
    .await
}

async fn get(context: &Context, client: &Client, task: TaskRef) -> Result<(), Failure> {
    let RunKey { namespace, pipeline, run } =
        resolve(context, client, task.pipeline, task.run).await?;
    let request = GetTaskRunRequest { namespace, pipeline, run, task: task.task };
    let response = client.task_runs().get_task_run(unary(request)).await?.into_inner();
    context
        .out
        .show(&response, |response| response.task_run.as_ref().map_or_else(String::new, describe))
}

async fn cancel(
    context: &Context,
    client: &Client,
    task: TaskRef,
    force: bool,
    reason: String,
) -> Result<(), Failure> {
    let RunKey { namespace, pipeline, run } =
        resolve(context, client, task.pipeline, task.run).await?;
    let request = CancelTaskRunRequest { namespace, pipeline, run, task: task.task, force, reason };
    let response = client.task_runs().cancel_task_run(unary(request)).await?.into_inner();
    context.out.done(&response, |response| {
        let task = response.task_run.clone().unwrap_or_default();
        match task.state() {
            TaskRunState::Complete => {
                format!("task `{}` is {}", task.task, format::task_state(&task))
            }
            _ => format!("task `{}` is being cancelled", task.task),
        }
    })
}

/// Each stream to its own: the bytes as they are, but what a terminal would obey, and before each
/// line its time if that is wanted.
async fn task_logs(
    context: &Context,
    mut reader: LogReader,
    timestamps: bool,
    raw: bool,
) -> Result<(), Failure> {
    let out = &context.out;
    let mut stamps = timestamps.then(Stamps::default);
    let mut timeless = Timeless::new(timestamps);
    let for_terminal = |is_terminal: bool| (is_terminal && !raw).then(terminal::Stream::default);
    let mut stdout = for_terminal(std::io::stdout().is_terminal());
    let mut stderr = for_terminal(std::io::stderr().is_terminal());

    while !out.closed()
        && let Some(piece) = reader.next().await?
    {
        if out.is_json() {
            out.json_line(&to_json(&piece))?;
        } else if let Some(chunk) = piece.chunk {
            timeless.tell(out, &chunk);
            let stamped = stamps.as_mut().map(|stamps| stamps.push(&chunk));
            let data = stamped.as_deref().unwrap_or(&chunk.data);

            match chunk.stream() {
                LogStream::Stderr => out.error_bytes(&shown(&mut stderr, data)),
                LogStream::Stdout | LogStream::Unspecified => {
                    out.bytes(&shown(&mut stdout, data))?
                }
            }
        }
    }

    out.bytes(&stdout.map_or_else(Vec::new, |mut stream| stream.end()))?;
    out.error_bytes(&stderr.map_or_else(Vec::new, |mut stream| stream.end()));
    Ok(())
}

fn shown<'a>(terminal: &mut Option<terminal::Stream>, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    terminal.as_mut().map_or(Cow::Borrowed(bytes), |terminal| Cow::Owned(terminal.push(bytes)))
}

fn describe(task: &TaskRun) -> String {
    let parents =
        task.depends_on.iter().map(|parent| parent.task.as_str()).collect::<Vec<_>>().join(", ");
    let fields = output::fields(&[
        ("task", format!("{}/{} #{} {}", task.namespace, task.pipeline, task.run, task.task)),
        ("status", format::task_state(task)),
        ("reason", format::reason(task.reason.as_ref())),
        ("exit code", task.exit_code.map_or_else(String::new, |code| code.to_string())),
        ("after", parents),
        ("may fail", if task.continue_on_failure { "yes" } else { "" }.to_owned()),
        ("next attempt", format::time(task.not_before.as_ref())),
    ]);
    let attempts = output::table(
        &["ATTEMPT", "STATUS", "STARTED", "TIME", "EXIT CODE", "LOG", "REASON"],
        task.attempts.iter().map(attempt_row),
    );
    format!("{fields}\n{attempts}")
}

fn attempt_row(attempt: &Attempt) -> Vec<String> {
    vec![
        attempt.attempt.to_string(),
        if attempt.ended_at.is_some() {
            format::task_status(attempt.status())
        } else {
            "active".to_owned()
        },
        format::time(attempt.started_at.as_ref()),
        format::took(attempt.started_at.as_ref(), attempt.ended_at.as_ref()),
        attempt.exit_code.map_or_else(String::new, |code| code.to_string()),
        format::word(attempt.log_state().as_str_name(), "LOG_STATE_"),
        format::reason(attempt.reason.as_ref()),
    ]
}
