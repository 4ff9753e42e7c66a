//! `gofer object`: bytes under a key, of a pipeline or of one run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use gofer_proto::v1::{
    DeleteObjectRequest, GetObjectRequest, GetObjectUrlRequest, ListObjectsRequest,
    ListObjectsResponse, PutObjectHeader,
};

use super::paging::{PageArgs, note_more};
use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::Failure;
use crate::interrupts::Interrupts;
use crate::{direct, format, output, transfer};

/// Stores and reads objects: bytes under a key, of a pipeline or of one run
///
/// Inside a task everything has a default: `gofer object put report.html target/report.html` stores
/// an object of the task's own run.
#[derive(Debug, Args)]
pub(crate) struct ObjectArgs {
    #[command(subcommand)]
    command: ObjectCommand,
}

#[derive(Debug, Subcommand)]
enum ObjectCommand {
    /// Stores an object; readers see the old one until the new one is there, whole
    #[command(after_help = "\
Examples:
  gofer object put report.html target/report.html            inside a task
  tar c dist | gofer object put dist.tar - --pipeline ci     at pipeline level, from stdin")]
    Put {
        /// Its key
        key: String,
        /// The bytes; `-` = stdin
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        #[command(flatten)]
        scope: ScopeArgs,
        /// Keep an existing object, and fail
        #[arg(long)]
        if_absent: bool,
        /// Send the bytes straight to the object store, past the server; needs a file, and a store
        /// that has URLs
        #[arg(long)]
        direct: bool,
    },
    /// Reads an object
    #[command(after_help = "\
Examples:
  gofer object get report.html report.html --pipeline ci --run 7
  gofer object get dist.tar - --pipeline ci | tar x")]
    Get {
        /// Its key
        key: String,
        /// Where the bytes go; `-` = stdout. A file appears when it is whole
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        #[command(flatten)]
        scope: ScopeArgs,
        /// Read the bytes straight from the object store, past the server; needs a store that has
        /// URLs
        #[arg(long)]
        direct: bool,
    },
    /// Prints a URL with which whoever has it reads the object, straight from the object store
    #[command(after_help = "\
Examples:
  gofer object url report.html --pipeline ci --run 7
  curl -o dist.tar \"$(gofer object url dist.tar --pipeline ci --ttl 1h)\"

The URL is a credential while it is good, 15 minutes or as long as --ttl says: up to the server's `limits.url_ttl` (24 hours
unless configured), for a run's token up to 1 hour. Nobody can take it back; the event object_url_issued says who has one.")]
    Url {
        /// Its key
        key: String,
        #[command(flatten)]
        scope: ScopeArgs,
        /// How long it is good, such as `1h`; the server's default is 15 minutes
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
    },
    /// Lists objects
    #[command(after_help = "\
Examples:
  gofer object list --pipeline ci
  gofer object list --pipeline ci --run 7 --prefix logs/")]
    List {
        #[command(flatten)]
        scope: ScopeArgs,
        /// Only keys that begin with this
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Removes an object
    #[command(after_help = "Examples:\n  gofer object delete dist.tar --pipeline ci")]
    Delete {
        /// Its key
        key: String,
        #[command(flatten)]
        scope: ScopeArgs,
    },
}

/// Whose objects are meant.
#[derive(Debug, Args)]
struct ScopeArgs {
    /// The pipeline
    #[arg(long, value_name = "NAME", env = "GOFER_PIPELINE")]
    pipeline: String,
    /// The run; without one the objects of the pipeline itself are meant
    #[arg(long, value_name = "N", env = "GOFER_RUN")]
    run: Option<u64>,
    /// The objects of the pipeline itself, also inside a task, where GOFER_RUN is set
    #[arg(long)]
    pipeline_level: bool,
}

impl ScopeArgs {
    /// The run's number; 0 = pipeline level, as the contract has it.
    fn run(&self) -> u64 {
        if self.pipeline_level { 0 } else { self.run.unwrap_or(0) }
    }
}

pub(crate) async fn run(args: ObjectArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let namespace = context.namespace();
    match args.command {
        ObjectCommand::Put { key, file, scope, if_absent, direct } => {
            let run = scope.run();
            let header = PutObjectHeader {
                namespace,
                pipeline: scope.pipeline,
                run,
                key,
                if_absent,
                size_bytes: None,
            };

            let response = match direct {
                true => direct::put(&client, header, &file, context.ca_file()).await?,
                false => transfer::put(&client, header, &file).await?,
            };

            context.out.done(&response, |response| {
                let object = response.object.clone().unwrap_or_default();
                let evicted = match response.evicted_keys.as_slice() {
                    [] => String::new(),
                    keys => format!("; evicted to keep the limit: {}", keys.join(", ")),
                };

                format!(
                    "object `{}` stored: {}{evicted}",
                    object.key,
                    format::size(object.size_bytes)
                )
            })
        }
        ObjectCommand::Get { key, file, scope, direct: true } => {
            let run = scope.run();
            let request =
                GetObjectUrlRequest { namespace, pipeline: scope.pipeline, run, key, ttl: None };
            let got = direct::get(&client, request, &file, context.ca_file(), &context.out);
            unless_interrupted(&file, got).await
        }
        ObjectCommand::Get { key, file, scope, direct: false } => {
            let run = scope.run();
            let request = GetObjectRequest { namespace, pipeline: scope.pipeline, run, key };
            unless_interrupted(&file, transfer::get(&client, request, &file, &context.out)).await
        }
        ObjectCommand::Url { key, scope, ttl } => {
            let run = scope.run();
            let ttl = ttl.map(prost_types::Duration::try_from).transpose();
            let ttl = ttl.map_err(|_| {
                Failure::usage(
                    "--ttl is longer than any URL is good; \
                                                `limits.url_ttl` of the server says how long, 7 \
                                                days at most",
                )
            })?;

            let request =
                GetObjectUrlRequest { namespace, pipeline: scope.pipeline, run, key, ttl };
            let response = client.objects().get_object_url(unary(request)).await?.into_inner();

            context.out.show(&response, |response| format!("{}\n", response.url))
        }
        ObjectCommand::List { scope, prefix, page } => {
            list(context, &client, scope, prefix, &page).await
        }
        ObjectCommand::Delete { key, scope } => {
            let run = scope.run();
            let request =
                DeleteObjectRequest { namespace, pipeline: scope.pipeline, run, key: key.clone() };
            let response = client.objects().delete_object(unary(request)).await?.into_inner();
            context.out.done(&response, |response| match response.existed {
                true => format!("object `{key}` deleted"),
                false => format!("there was no object `{key}`"),
            })
        }
    }
}

/// A signal leaves nothing behind of a file that is not whole. What goes to stdout is there
/// already, and a signal ends that at once, also while nobody reads.
async fn unless_interrupted(
    file: &Path,
    got: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    if file == Path::new("-") {
        return got.await;
    }
    Interrupts::catch_all()?.unless_interrupted(got).await
}

async fn list(
    context: &Context,
    client: &Client,
    scope: ScopeArgs,
    prefix: String,
    page: &PageArgs,
) -> Result<(), Failure> {
    let run = scope.run();
    let filter = ListObjectsRequest {
        namespace: context.namespace(),
        pipeline: scope.pipeline,
        run,
        prefix,
        ..ListObjectsRequest::default()
    };

    let (objects, next_page_token) = page
        .collect(async |page_size, page_token| {
            let request = ListObjectsRequest { page_size, page_token, ..filter.clone() };
            let page = client.objects().list_objects(unary(request)).await?.into_inner();
            Ok((page.objects, page.next_page_token))
        })
        .await?;

    note_more(&context.out, &next_page_token);
    context.out.show(&ListObjectsResponse { objects, next_page_token }, |response| {
        output::table(
            &["KEY", "SIZE", "STORED", "SHA-256"],
            response.objects.iter().map(|object| {
                vec![
                    object.key.clone(),
                    format::size(object.size_bytes),
                    format::time(object.created_at.as_ref()),
                    object.sha256.chars().take(12).collect(),
                ]
            }),
        )
    })
}
