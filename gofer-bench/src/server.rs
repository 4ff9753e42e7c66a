//! A `gofer server` as a user starts it, and calls to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gofer_proto::v1::event_service_client::EventServiceClient;
use gofer_proto::v1::pipeline_service_client::PipelineServiceClient;
use gofer_proto::v1::run_service_client::RunServiceClient;
use gofer_proto::v1::system_service_client::SystemServiceClient;
use gofer_proto::v1::{
    Event, FollowEventsRequest, FollowEventsResponse, FollowRunRequest, GetSystemInfoRequest,
    PipelineSpec, RegisterPipelineRequest, Run, RunState, RunStatus, StartRunRequest, run_update,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::processes;

/// How long a server may take to answer at all, and to end; far more than any that works.
const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const NAMESPACE: &str = "default";

/// The connection, which adds the server's own token to every call.
pub(crate) type Connection = InterceptedService<Channel, Authorization>;

/// Adds `authorization: Bearer …`.
#[derive(Debug, Clone)]
pub(crate) struct Authorization(MetadataValue<Ascii>);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Events as they happen.
pub(crate) type Events = Streaming<FollowEventsResponse>;

/// A running server. Dropped, it is killed with its helpers.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    gofer: PathBuf,
    channel: Connection,
    /// From starting the process until the first answer.
    pub(crate) started_in: Duration,
}

impl Server {
    /// Starts `gofer server` on a free port and waits until it answers a call.
    pub(crate) async fn start(gofer: &Path, data_dir: &Path) -> Result<Self> {
        Self::start_with(gofer, data_dir, &[], PATIENCE).await
    }

    /// The same with settings, named as in the environment, and with another patience.
    pub(crate) async fn start_with(
        gofer: &Path,
        data_dir: &Path,
        settings: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Self> {
        Self::launch(
            Command::new(gofer).arg("server").envs(settings.iter().copied()),
            gofer,
            data_dir,
            patience,
        )
        .await
    }

    /// The same with a configuration file's text.
    pub(crate) async fn start_configured(
        gofer: &Path,
        data_dir: &Path,
        config: &str,
    ) -> Result<Self> {
        let path = data_dir.with_extension("toml");
        fs::write(&path, config).with_context(|| format!("cannot write `{}`", path.display()))?;
        Self::launch(
            Command::new(gofer).args(["server", "--config"]).arg(&path),
            gofer,
            data_dir,
            PATIENCE,
        )
        .await
    }

    async fn launch(
        command: &mut Command,
        gofer: &Path,
        data_dir: &Path,
        patience: Duration,
    ) -> Result<Self> {
        let log_path = data_dir.with_extension("log");
        let log = File::create(&log_path)
            .with_context(|| format!("cannot write `{}`", log_path.display()))?;
        let start = Instant::now();
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `gofer server`")?;
        let channel = timeout(patience, first_answer(&mut child, data_dir))
            .await
            .context("it took too long")
            .flatten();
        let channel = channel
            .with_context(|| format!("`gofer server` does not serve:\n{}", tail(&log_path)))?;

        Ok(Self { child, gofer: gofer.into(), channel, started_in: start.elapsed() })
    }

    /// The process of the server itself.
    pub(crate) fn pid(&self) -> Result<i32> {
        Ok(self.child.id().context("the server has ended")?.cast_signed())
    }

    /// Ends the server as a user would, and its helpers.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.pid()?).context("the server has ended")?;
        kill_process(pid, Signal::TERM).context("cannot end `gofer server`")?;
        let status =
            timeout(PATIENCE, self.child.wait()).await.context("`gofer server` does not end")??;
        ensure!(status.success(), "`gofer server` ended with {status}");
        Ok(())
    }

    pub(crate) async fn register(&self, spec: PipelineSpec) -> Result<()> {
        let request = RegisterPipelineRequest {
            namespace: NAMESPACE.to_owned(),
            spec: Some(spec),
            ..RegisterPipelineRequest::default()
        };
        PipelineServiceClient::new(self.channel()).register_pipeline(request).await?;
        Ok(())
    }

    /// Asks for a run of a registered pipeline.
    pub(crate) async fn start_run(
        &self,
        pipeline: &str,
        variable: Option<(&str, String)>,
    ) -> Result<Run> {
        start_run(self.runs(), pipeline, variable).await
    }

    /// The client for tasks of this program that start runs; see [`start_run`].
    pub(crate) fn runs(&self) -> RunServiceClient<Connection> {
        RunServiceClient::new(self.channel())
    }

    /// Waits until a run is complete, and sees to it that it was successful.
    pub(crate) async fn finish(&self, run: Run) -> Result<()> {
        let request =
            FollowRunRequest { namespace: run.namespace, pipeline: run.pipeline, run: run.run };
        let mut updates = self.runs().follow_run(request).await?.into_inner();
        let mut last = None;

        while let Some(message) = updates.message().await? {
            if let Some(run_update::Subject::Run(run)) =
                message.update.and_then(|update| update.subject)
            {
                last = Some(run);
            }
        }

        let run = last.context("the stream of a run ended without the run")?;
        ensure!(
            run.state() == RunState::Complete && run.status() == RunStatus::Successful,
            "a run failed: {run:?}"
        );

        Ok(())
    }

    /// The completions of a pipeline's runs from now on.
    pub(crate) async fn completions(&self, pipeline: &str) -> Result<Events> {
        self.events(pipeline, "run_completed").await
    }

    /// The events of one type that concern a pipeline, from now on.
    pub(crate) async fn events(&self, pipeline: &str, of_type: &str) -> Result<Events> {
        let request = FollowEventsRequest {
            namespace: NAMESPACE.to_owned(),
            pipeline: pipeline.to_owned(),
            types: vec![of_type.to_owned()],
            ..FollowEventsRequest::default()
        };
        Ok(EventServiceClient::new(self.channel()).follow_events(request).await?.into_inner())
    }

    /// The connection, for calls that only one group makes.
    pub(crate) fn channel(&self) -> Connection {
        self.channel.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Helpers may outlive the server on purpose.
        processes::kill_all(&self.gofer);
    }
}

/// The next event of a stream.
pub(crate) async fn next_event(events: &mut Events, patience: Duration) -> Result<Event> {
    loop {
        let message =
            timeout(patience, events.message()).await.context("an event did not come")??;
        if let Some(event) = message.context("the stream of events ended")?.event {
            return Ok(event);
        }
    }
}

/// Asks for a run of a registered pipeline.
pub(crate) async fn start_run(
    mut runs: RunServiceClient<Connection>,
    pipeline: &str,
    variable: Option<(&str, String)>,
) -> Result<Run> {
    let request = StartRunRequest {
        namespace: NAMESPACE.to_owned(),
        pipeline: pipeline.to_owned(),
        variables: variable.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..StartRunRequest::default()
    };
    runs.start_run(request).await?.into_inner().run.context("an answer without a run")
}

/// Waits for the line that says where the server listens, connects, and makes one call.
async fn first_answer(child: &mut Child, data_dir: &Path) -> Result<Connection> {
    let stdout = child.stdout.as_mut().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    let address = line
        .trim_end()
        .strip_prefix("listening on ")
        .with_context(|| format!("it said `{line}`"))?;
    let token =
        fs::read_to_string(data_dir.join("token")).context("the server has left no token")?;
    let token =
        Authorization(format!("Bearer {}", token.lines().next().unwrap_or_default()).parse()?);
    let channel = Endpoint::from_shared(address.to_owned())?.connect().await?;
    let channel = InterceptedService::new(channel, token);

    SystemServiceClient::new(channel.clone())
        .get_system_info(GetSystemInfoRequest::default())
        .await?;

    Ok(channel)
}

/// The end of a log, for an error.
fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
