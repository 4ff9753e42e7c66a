//! `gofer event`: what has happened, and what happens.

use clap::{Args, Subcommand};
use gofer_proto::v1::{Event, FollowEventsRequest, ListEventsRequest, ListEventsResponse};

use super::paging::{PageArgs, note_more};
use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::Failure;
use crate::follow::SILENCE_MAX;
use crate::follow::reconnect::Patience;
use crate::{format, output};

/// Looks at events: immutable, numbered records of everything that happens
#[derive(Debug, Args)]
pub(crate) struct EventArgs {
    #[command(subcommand)]
    command: EventCommand,
}

#[derive(Debug, Subcommand)]
enum EventCommand {
    /// Lists events, or follows them as they happen; of every namespace you may see unless one is
    /// named
    #[command(after_help = "\
Examples:
  gofer event list --reverse --limit 20
  gofer event list -n web --pipeline ci --run 7
  gofer event list --follow --type run_completed -o json
  gofer event list --follow --after 1234")]
    List(ListArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Go on with new events as they happen, until Ctrl-C; without --after only new ones are shown
    #[arg(long, short, conflicts_with_all = ["reverse", "limit", "page_token"])]
    follow: bool,
    /// Only events with a greater id, or, with --reverse, a smaller one
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// Only events of these types, for example run_completed,run_created; may be repeated
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Only events of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Only events of this run
    #[arg(long, value_name = "N", requires = "pipeline")]
    run: Option<u64>,
    /// Newest first
    #[arg(long)]
    reverse: bool,
    #[command(flatten)]
    page: PageArgs,
}

pub(crate) async fn run(args: EventArgs, context: &Context) -> Result<(), Failure> {
    let EventCommand::List(args) = args.command;
    let client = context.client().await?;
    // A pipeline has a namespace, so naming one without the other means the default one.
    let namespace = match args.pipeline {
        Some(_) => context.namespace(),
        None => context.named_namespace().unwrap_or_default(),
    };
    if args.follow {
        follow(args, namespace, context, &client).await
    } else {
        list(args, namespace, context, &client).await
    }
}

async fn list(
    args: ListArgs,
    namespace: String,
    context: &Context,
    client: &Client,
) -> Result<(), Failure> {
    let filter = ListEventsRequest {
        after_id: args.after.unwrap_or(0),
        namespace,
        pipeline: args.pipeline.unwrap_or_default(),
        run: args.run.unwrap_or(0),
        types: args.types,
        reverse: args.reverse,
        ..ListEventsRequest::default()
    };

    let (events, next_page_token) = args
        .page
        .collect(async |page_size, page_token| {
            let request = ListEventsRequest { page_size, page_token, ..filter.clone() };
            let page = client.events().list_events(unary(request)).await?.into_inner();
            Ok((page.events, page.next_page_token))
        })
        .await?;

    note_more(&context.out, &next_page_token);
    context.out.show(&ListEventsResponse { events, next_page_token }, |response| {
        output::table(
            &["ID", "TIME", "TYPE", "ABOUT", "BY", "DETAILS"],
            response.events.iter().map(columns),
        )
    })
}

/// Follows from a cursor, also over a server's restart.
async fn follow(
    args: ListArgs,
    namespace: String,
    context: &Context,
    client: &Client,
) -> Result<(), Failure> {
    let mut request = FollowEventsRequest {
        after_id: args.after,
        namespace,
        pipeline: args.pipeline.unwrap_or_default(),
        run: args.run.unwrap_or(0),
        types: args.types,
    };

    if request.after_id.is_none() {
        request.after_id = Some(newest(&request, client).await?);
    }

    let mut patience = Patience::new(client.contact());
    loop {
        let cut = match client.events().follow_events(request.clone()).await {
            Err(status) => Failure::from(status),
            Ok(stream) => {
                let mut stream = stream.into_inner();
                patience.opened();
                loop {
                    match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                        Ok(Ok(Some(message))) => {
                            patience.progress();
                            request.after_id = Some(message.cursor);
                            if let Some(event) = message.event {
                                show(context, &event)?;
                            }
                            if context.out.closed() {
                                return Ok(());
                            }
                        }
                        Ok(Ok(None)) => break Failure::unreachable("the server ended the stream"),
                        Ok(Err(status)) => break Failure::from(status),
                        Err(_) => break Failure::unreachable("the server has fallen silent"),
                    }
                }
            }
        };

        let pause = patience.after(cut)?;
        if let Some(note) = pause.note {
            context.out.note(&note);
        }

        tokio::time::sleep(pause.delay).await;
    }
}

/// The id of the newest event that would be shown. A stream that were to begin "now" would begin
/// again later after a cut.
async fn newest(request: &FollowEventsRequest, client: &Client) -> Result<u64, Failure> {
    let FollowEventsRequest { namespace, pipeline, run, types, .. } = request.clone();
    let newest = ListEventsRequest {
        namespace,
        pipeline,
        run,
        types,
        reverse: true,
        page_size: 1,
        ..Default::default()
    };
    let events = client.events().list_events(unary(newest)).await?.into_inner().events;
    Ok(events.first().map_or(0, |event| event.id))
}

fn show(context: &Context, event: &Event) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json_line(&gofer_proto::json::to_json(event));
    }
    let line = columns(event)
        .iter()
        .map(|column| output::printable(column))
        .collect::<Vec<_>>()
        .join("  ");
    context.out.line(line.trim_end())
}

fn columns(event: &Event) -> Vec<String> {
    let (kind, details) = kind_and_details(event);
    vec![
        event.id.to_string(),
        format::time(event.at.as_ref()),
        kind,
        about(event),
        event.actor.clone(),
        details,
    ]
}

/// `web/ci #7 build (2)`: as much of it as there is.
fn about(event: &Event) -> String {
    let mut text = event.namespace.clone();
    if !event.pipeline.is_empty() {
        text = format!("{text}/{}", event.pipeline);
    }
    if event.run != 0 {
        text = format!("{text} #{}", event.run);
    }
    if !event.task.is_empty() {
        text = format!("{text} {}", event.task);
    }
    if event.attempt > 1 {
        text = format!("{text} ({})", event.attempt);
    }
    text
}

/// The event's type and its details in words, by reflection: so no type of event is forgotten here.
fn kind_and_details(event: &Event) -> (String, String) {
    const COMMON: [&str; 8] =
        ["id", "at", "namespace", "pipeline", "run", "task", "attempt", "actor"];
    let serde_json::Value::Object(fields) = gofer_proto::json::to_json(event) else {
        return Default::default();
    };
    let Some((name, details)) =
        fields.into_iter().find(|(name, _)| !COMMON.contains(&name.as_str()))
    else {
        return ("unknown".to_owned(), String::new());
    };
    (snake_case(&name), words(&details))
}

fn words(details: &serde_json::Value) -> String {
    let Some(fields) = details.as_object() else { return String::new() };
    let word = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    fields.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// `runCompleted` is `run_completed`, as the filters call it.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use gofer_proto::v1::{RunCompleted, RunStatus, event};

    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_type() {
        let completed = RunCompleted { status: RunStatus::Failed.into(), reason: None };
        let event = Event {
            id: 12,
            namespace: "web".into(),
            pipeline: "ci".into(),
            run: 7,
            actor: "gofer".into(),
            details: Some(event::Details::RunCompleted(completed)),
            ..Event::default()
        };
        assert_eq!(
            columns(&event),
            ["12", "", "run_completed", "web/ci #7", "gofer", "status=RUN_STATUS_FAILED"]
        );
    }
}
