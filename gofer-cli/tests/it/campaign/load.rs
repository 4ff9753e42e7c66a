//! Many clients at once, each of which starts a run, maybe cancels it, sees it through to its end,
//! and starts the next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gofer_proto::v1;
use gofer_proto::v1::run_service_client::RunServiceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::dice::Dice;
use super::shapes::{self, Shape};
use crate::serving::{OwnToken, Serving};

/// How long the server may be away or slow altogether before a client gives up: longer than any
/// outage of a test.
const PATIENCE: Duration = Duration::from_secs(150);
/// No call may take longer, whatever happens to the server: its own limit is 30 s.
const CALL: Duration = Duration::from_secs(40);
/// Between two questions for a run's state.
const AGAIN: Duration = Duration::from_millis(100);
/// A run that is going to be cancelled lives at most this long.
const ENDLESS: Duration = Duration::from_millis(600);

/// A run that came to its end.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) shape: usize,
    pub(crate) run: u64,
}

impl Done {
    pub(crate) fn shape(&self) -> &'static Shape {
        shapes::ALL[self.shape]
    }
}

/// What the server answered instead of doing it, by its reason: how often, with which code, and its
/// latest words.
pub(crate) type Refusals = BTreeMap<String, (u64, Code, String)>;

/// What all clients have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    refusals: Mutex<Refusals>,
    longest: Mutex<Duration>,
}

impl Seen {
    fn refusal(&self, status: &Status) {
        // Without a reason it is the connection that broke, with the server or without.
        let Some(info) = status.get_details_error_info() else { return };
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, code, message) =
            refusals.entry(info.reason).or_insert((0, status.code(), String::new()));
        *count += 1;
        *code = status.code();
        status.message().clone_into(message);
    }

    pub(crate) fn refusals(&self) -> Refusals {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The longest call.
    pub(crate) fn longest(&self) -> Duration {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn took(&self, time: Duration) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = time.max(*longest);
    }
}

/// The clients at work.
pub(crate) struct Load {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    clients: Vec<JoinHandle<Vec<Done>>>,
}

impl Load {
    /// Registers nothing: the shapes have to be there.
    pub(crate) fn start(server: &Serving, dice: &Dice, clients: u64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let endpoint = Endpoint::from_shared(server.addr.clone()).expect("an address");
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).timeout(CALL);
        let clients = (0..clients)
            .map(|number| {
                let _entered = runtime.enter();
                let channel = InterceptedService::new(endpoint.connect_lazy(), server.own_token());
                let service = RunServiceClient::new(channel);
                let client =
                    Client { number, service, dice: dice.of(number + 1), seen: seen.clone() };
                runtime.spawn(client.work(stop.clone()))
            })
            .collect();

        Self { runtime, stop, seen, clients }
    }

    /// Starts no further runs, and waits until those that are there have ended.
    pub(crate) fn finish(self) -> (Vec<Done>, Arc<Seen>) {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.runtime.block_on(async {
            let mut all = Vec::new();
            for client in self.clients {
                all.extend(
                    client
                        .await
                        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
                );
            }
            all
        });
        (all, self.seen)
    }
}

struct Client {
    number: u64,
    service: RunServiceClient<InterceptedService<Channel, OwnToken>>,
    dice: Dice,
    seen: Arc<Seen>,
}

impl Client {
    async fn work(mut self, stop: Arc<AtomicBool>) -> Vec<Done> {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let which = self.dice.below(shapes::ALL.len() as u64);
            let shape = usize::try_from(which).expect("a small number");
            let run = self.start(shapes::ALL[shape].name, done.len()).await;
            if shapes::ALL[shape].is_endless() {
                tokio::time::sleep(self.dice.moment(ENDLESS)).await;
                self.cancel(shapes::ALL[shape].name, run).await;
            }
            self.see_through(shapes::ALL[shape], run).await;
            done.push(Done { shape, run });
        }
        done
    }

    /// Whatever becomes of a call: repeating it with its key makes sure that there is one run, and
    /// only one.
    async fn start(&mut self, pipeline: &str, number: usize) -> u64 {
        let request = v1::StartRunRequest {
            namespace: "default".to_owned(),
            pipeline: pipeline.to_owned(),
            idempotency_key: format!("{}-{number}", self.number),
            ..v1::StartRunRequest::default()
        };
        let service = self.service.clone();
        let started = self.insist("start", || {
            let (mut service, request) = (service.clone(), request.clone());
            async move { service.start_run(request).await }
        });
        started.await.run.expect("a run").run
    }

    async fn cancel(&mut self, pipeline: &str, run: u64) {
        let force = self.dice.below(2) == 0;
        let request = v1::CancelRunRequest {
            namespace: "default".to_owned(),
            pipeline: pipeline.to_owned(),
            run,
            force,
            reason: "the test wants it".to_owned(),
        };
        let service = self.service.clone();
        self.insist("cancel", || {
            let (mut service, request) = (service.clone(), request.clone());
            async move { service.cancel_run(request).await }
        })
        .await;
    }

    async fn see_through(&self, shape: &Shape, run: u64) {
        let request = v1::GetRunRequest {
            namespace: "default".to_owned(),
            pipeline: shape.name.to_owned(),
            run,
        };

        let since = Instant::now();
        loop {
            let got = self.insist("get", || {
                let (mut service, request) = (self.service.clone(), request.clone());
                async move { service.get_run(request).await }
            });

            let got = got.await;
            let run = got.run.as_ref().expect("a run");
            if run.state() == v1::RunState::Complete {
                assert_eq!(run.status(), shape.status, "{got:#?}");
                return;
            }

            assert!(since.elapsed() < PATIENCE, "not complete within {PATIENCE:?}: {got:#?}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Calls again as long as the server is away, or says that it cannot.
    async fn insist<T, F>(&self, what: &str, mut call: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let since = Instant::now();
        loop {
            let begun = Instant::now();
            let answer = call().await;
            self.seen.took(begun.elapsed());
            let status = match answer {
                Ok(answer) => return answer.into_inner(),
                Err(status) => status,
            };

            self.seen.refusal(&status);
            assert!(may_pass(status.code()), "{what}: {status:?}");
            assert!(
                since.elapsed() < PATIENCE,
                "{what}: no success within {PATIENCE:?}; last: {status:?}"
            );
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether the same call may succeed later. A connection that broke is unknown or internal to the
/// client.
fn may_pass(code: Code) -> bool {
    let is_away = matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    );
    // The token was read just before another server made its own; the next call reads that.
    is_away || code == Code::Unauthenticated
}
