//! Which run or task a command is about.

use std::str::FromStr;

use clap::Args;
use gofer_proto::v1::ListRunsRequest;

use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::Failure;
use crate::follow::RunKey;

/// A run of a pipeline.
#[derive(Debug, Args)]
pub(crate) struct RunRef {
    /// The pipeline's name
    pub(crate) pipeline: String,
    /// The run's number, or `latest`
    #[arg(value_name = "RUN", default_value = "latest")]
    pub(crate) run: Number,
}

/// A task of a run.
#[derive(Debug, Args)]
pub(crate) struct TaskRef {
    /// The pipeline's name
    pub(crate) pipeline: String,
    /// The run's number, or `latest`
    #[arg(value_name = "RUN")]
    pub(crate) run: Number,
    /// The task's id
    pub(crate) task: String,
}

/// The number of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    Latest,
    Exactly(u64),
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("latest", _) => Ok(Self::Latest),
            (_, Ok(number)) if number > 0 => Ok(Self::Exactly(number)),
            _ => Err("a run has a number from 1, or is the `latest`".to_owned()),
        }
    }
}

/// The run that is meant.
pub(crate) async fn resolve(
    context: &Context,
    client: &Client,
    pipeline: String,
    number: Number,
) -> Result<RunKey, Failure> {
    let namespace = context.namespace();
    let run = match number {
        Number::Exactly(run) => run,
        Number::Latest => {
            let request = ListRunsRequest {
                namespace: namespace.clone(),
                pipeline: pipeline.clone(),
                page_size: 1,
                ..ListRunsRequest::default()
            };

            let newest =
                client.runs().list_runs(unary(request)).await?.into_inner().runs.into_iter().next();
            newest.map(|run| run.run).ok_or_else(|| {
                Failure::refused(format!(
                    "there is no run of `{pipeline}` in the namespace `{namespace}`"
                ))
                .hint(format!("start one with `gofer run start {pipeline}`"))
            })?
        }
    };

    Ok(RunKey { namespace, pipeline, run })
}
