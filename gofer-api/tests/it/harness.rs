//! A server of its own for each test, its clients, and the pipelines the tests use.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gofer_api::config::ServerConfig;
use gofer_api::{Activity, Launcher, Server, ServerError};
use gofer_db::DbError;
use gofer_proto::v1;
use gofer_proto::v1::task_spec::Kind;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::database::TestDatabase;

/// How long a test waits for what must happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Runs an async function with a server on SQLite and, where one is at hand, on PostgreSQL.
macro_rules! on_each_database {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::harness::TestServer::start().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let test = concat!(module_path!(), "::", stringify!($name));
                if let Some(database) = crate::database::TestDatabase::create(test).await {
                    super::$name(crate::harness::TestServer::start_on(database).await).await;
                }
            })+
        }
    };
}
pub(crate) use on_each_database;

/// A running server. Dropped, it asserts that nothing is left running, and ends.
pub(crate) struct TestServer {
    server: Option<Server>,
    channel: Channel,
    dir: TempDir,
    // Dropped last: the server uses it until it has ended.
    _database: Option<TestDatabase>,
}

impl TestServer {
    /// In dev mode, on SQLite.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// In dev mode, on PostgreSQL.
    pub(crate) async fn start_on(database: TestDatabase) -> Self {
        let url = database.url();
        let configure = move |config: &mut ServerConfig| {
            config.database.url = Some(gofer_db::DatabaseUrl::new(url));
        };
        Self::begin(TempDir::new().unwrap(), configure, Some(database)).await
    }

    /// As the configuration says, on any free loopback port.
    pub(crate) async fn start_with(configure: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::begin(TempDir::new().unwrap(), configure, None).await
    }

    async fn begin(
        dir: TempDir,
        configure: impl FnOnce(&mut ServerConfig),
        database: Option<TestDatabase>,
    ) -> Self {
        let mut config = test_config(dir.path());
        configure(&mut config);
        // The lock of an ended server may live on for a moment: in a process that another test is
        // just starting.
        let server = eventually("the database is free", || async {
            match Server::start(config.clone(), launcher()).await {
                Err(ServerError::Database(DbError::Locked { holder, .. })) => Err(holder),
                started => Ok(started.unwrap_or_else(|error| panic!("{error:?}"))),
            }
        })
        .await;
        let channel =
            Endpoint::from_shared(format!("http://{}", server.addr())).unwrap().connect_lazy();
        Self { server: Some(server), channel, dir, _database: database }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// A directory for the test's own files; gone with the server.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The same connection without a token.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The server's own user: in dev mode with the token that the server has left for it, else
    /// without any.
    pub(crate) fn anybody(&self) -> Clients {
        self.caller(self.own_token())
    }

    /// Who calls without a token.
    pub(crate) fn nobody(&self) -> Clients {
        self.caller(None)
    }

    /// The token that the server has left for its user.
    pub(crate) fn own_token(&self) -> Option<String> {
        self.server().own_token().map(|token| token.expose_secret().to_owned())
    }

    fn caller(&self, token: Option<String>) -> Clients {
        Clients { channel: InterceptedService::new(self.channel.clone(), Bearer(token)) }
    }

    /// The code that a server with tokens has left for its operator.
    pub(crate) fn bootstrap_code(&self) -> String {
        let text = std::fs::read_to_string(self.dir().join("data/bootstrap")).unwrap();
        text.lines().next().unwrap().to_owned()
    }

    /// Makes the first management token of a server with tokens.
    pub(crate) async fn bootstrap(&self) -> v1::BootstrapTokenResponse {
        let request = v1::BootstrapTokenRequest { code: self.bootstrap_code() };
        self.nobody().tokens().bootstrap_token(request).await.unwrap().into_inner()
    }

    /// Who calls with this token.
    pub(crate) fn with_token(&self, token: &str) -> Clients {
        self.caller(Some(token.to_owned()))
    }

    /// Ends the server in an orderly way and gives its directory back.
    pub(crate) async fn stop(mut self) -> TempDir {
        let server = self.server.take().unwrap();
        let other = TempDir::new().unwrap();
        let dir = std::mem::replace(&mut self.dir, other);
        server.shutdown().await.unwrap();
        dir
    }

    /// A server on a directory that another one has left.
    pub(crate) async fn restart(dir: TempDir) -> Self {
        Self::restart_with(dir, |_| {}).await
    }

    /// The same, with another configuration.
    pub(crate) async fn restart_with(
        dir: TempDir,
        configure: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        Self::begin(dir, configure, None).await
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        if std::thread::panicking() {
            return;
        }
        // A drop cannot wait inside a runtime; a thread with its own can, and is waited for.
        let ended = std::thread::Builder::new().name("end-server".into()).spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(end(server));
        });
        ended.unwrap().join().unwrap();
    }
}

async fn end(server: Server) {
    let nothing = Activity { calls: 0, active_runs: 0, executions: 0 };
    eventually("nothing is left running", || async {
        let activity = server.activity();
        if activity == nothing { Ok(()) } else { Err(activity) }
    })
    .await;
    server.shutdown().await.unwrap();
}

/// A development server's configuration, for a machine that need not survive a power cut.
pub(crate) fn test_config(dir: &Path) -> ServerConfig {
    let mut config = ServerConfig::default_dev(dir.join("data"));
    config.server.listen.set_port(0);
    // Tests give tokens for namespaces as they like; `boundary.rs` is about servers that would not.
    config.scheduler.local.trusted = true;
    config
}

/// What the local scheduler starts beside the server.
pub(crate) fn launcher() -> Launcher {
    (PathBuf::from(env!("CARGO_BIN_EXE_gofer_api_supervisor")), Vec::new())
}

/// Sends a token, if there is one.
#[derive(Clone)]
pub(crate) struct Bearer(Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Clients of every service, for one caller.
#[derive(Clone)]
pub(crate) struct Clients {
    channel: InterceptedService<Channel, Bearer>,
}

macro_rules! clients {
    ($($name:ident: $module:ident :: $client:ident;)+) => {
        impl Clients {
            $(pub(crate) fn $name(&self) -> v1::$module::$client<InterceptedService<Channel, Bearer>> {
                v1::$module::$client::new(self.channel.clone()).max_decoding_message_size(64 * 1024 * 1024)
            })+
        }
    };
}

clients! {
    common_tasks: common_task_service_client::CommonTaskServiceClient;
    events: event_service_client::EventServiceClient;
    namespaces: namespace_service_client::NamespaceServiceClient;
    objects: object_service_client::ObjectServiceClient;
    pipelines: pipeline_service_client::PipelineServiceClient;
    runs: run_service_client::RunServiceClient;
    secrets: secret_service_client::SecretServiceClient;
    system: system_service_client::SystemServiceClient;
    task_runs: task_run_service_client::TaskRunServiceClient;
    tokens: token_service_client::TokenServiceClient;
    triggers: trigger_service_client::TriggerServiceClient;
}

impl Clients {
    /// Registers a pipeline in `default`.
    pub(crate) async fn register(&self, spec: v1::PipelineSpec) -> v1::RegisterPipelineResponse {
        self.try_register(spec).await.unwrap()
    }

    /// Tries to register a pipeline in `default`.
    pub(crate) async fn try_register(
        &self,
        spec: v1::PipelineSpec,
    ) -> Result<v1::RegisterPipelineResponse, Status> {
        let request = v1::RegisterPipelineRequest {
            namespace: "default".into(),
            spec: Some(spec),
            ..Default::default()
        };
        Ok(self.pipelines().register_pipeline(request).await?.into_inner())
    }

    /// Starts a run in `default`.
    pub(crate) async fn start(&self, pipeline: &str) -> v1::Run {
        let request = v1::StartRunRequest {
            namespace: "default".into(),
            pipeline: pipeline.into(),
            ..v1::StartRunRequest::default()
        };
        self.runs().start_run(request).await.unwrap().into_inner().run.unwrap()
    }

    /// The run once it is complete, with its task runs.
    pub(crate) async fn finished(&self, pipeline: &str, run: u64) -> v1::GetRunResponse {
        eventually("the run is complete", || async {
            let found = self.get_run(pipeline, run).await;
            if found.run.as_ref().unwrap().state() == v1::RunState::Complete {
                Ok(found)
            } else {
                Err(found)
            }
        })
        .await
    }

    /// A run in `default`.
    pub(crate) async fn get_run(&self, pipeline: &str, run: u64) -> v1::GetRunResponse {
        let request =
            v1::GetRunRequest { namespace: "default".into(), pipeline: pipeline.into(), run };
        self.runs().get_run(request).await.unwrap().into_inner()
    }

    /// Cancels a run in `default` at once.
    pub(crate) async fn kill(&self, pipeline: &str, run: u64) {
        let request = v1::CancelRunRequest {
            namespace: "default".into(),
            pipeline: pipeline.into(),
            run,
            force: true,
            reason: "the test is over".into(),
        };
        self.runs().cancel_run(request).await.unwrap();
        self.finished(pipeline, run).await;
    }
}

/// A pipeline of these tasks.
pub(crate) fn pipeline(name: &str, tasks: Vec<v1::TaskSpec>) -> v1::PipelineSpec {
    v1::PipelineSpec { name: name.into(), tasks, ..v1::PipelineSpec::default() }
}

/// A task that runs a line of shell.
pub(crate) fn shell(id: &str, line: &str) -> v1::TaskSpec {
    let command = ["sh", "-c", line].map(str::to_owned).to_vec();
    let kind = Some(Kind::Custom(v1::CustomTask { command, ..v1::CustomTask::default() }));
    v1::TaskSpec { id: id.into(), kind, ..v1::TaskSpec::default() }
}

/// The same task after others.
pub(crate) fn after(mut task: v1::TaskSpec, parents: &[&str]) -> v1::TaskSpec {
    let edge = |parent: &&str| v1::Dependency { task: (*parent).to_owned(), condition: 0 };
    task.depends_on = parents.iter().map(edge).collect();
    task
}

/// Asks until the answer is `Ok`; panics with the last state when that takes too long.
pub(crate) async fn eventually<T, E, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    E: std::fmt::Debug,
    F: Future<Output = Result<T, E>>,
{
    let begin = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if begin.elapsed() > SOON => {
                panic!("not within {SOON:?}: {what}; last seen: {last:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The code and reason of a refusal, and all it says.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String, String) {
    let status = answer.unwrap_err();
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let fields =
        status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let fields: Vec<_> =
        fields.into_iter().map(|one| format!("{}: {}", one.field, one.description)).collect();
    (status.code(), reason, format!("{}\n{}", status.message(), fields.join("\n")))
}

/// Asserts that the input was refused, and that the answer has these words.
#[track_caller]
pub(crate) fn assert_invalid<T: std::fmt::Debug>(answer: Result<T, Status>, words: &[&str]) {
    let (code, reason, text) = refusal(answer);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID_INPUT"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// Asserts that the call was refused for this reason.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
) {
    let (found_code, found_reason, text) = refusal(answer);
    assert_eq!((found_code, found_reason.as_str()), (code, reason), "{text}");
}
