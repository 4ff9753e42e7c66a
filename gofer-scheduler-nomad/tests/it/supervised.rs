//! The real `gofer supervise` on a real agent, and a server in Gofer's place that passes its
//! reports to the scheduler.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use futures::stream;
use gofer_conformance::scheduler::{SchedulerHarness, Workloads};
use gofer_conformance::{Harness, eventually};
use gofer_core::Timestamp;
use gofer_core::scheduler::{
    EnvValue, ExecutionState, ExecutionTimes, ReportedEnd, Scheduler, WorkloadIdentity,
};
use gofer_scheduler_nomad::NomadScheduler;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::agent::Agent;
use crate::isolated::Volume;
use crate::support::{Setup, exited, id};

/// A scheduler whose tasks on the host are supervised.
pub(crate) struct Supervised {
    agent: Agent,
    setup: Setup,
    workloads: Volume,
    ear: Arc<Ear>,
    listening: AbortHandle,
}

/// Hears the reports.
#[derive(Default)]
struct Ear {
    scheduler: Mutex<Option<NomadScheduler>>,
    accepted: AtomicUsize,
    refused: AtomicUsize,
    /// The allocations whose end was reported.
    ended: Mutex<Vec<String>>,
}

impl Supervised {
    /// Where there are an agent and a `gofer`.
    pub(crate) async fn find(test: &str) -> Option<Self> {
        let agent = Agent::find(test)?;
        let Some(gofer) = binary() else {
            // A build of this crate alone makes no binary.
            gofer_conformance::say_skipped(
                test,
                "no `gofer` beside the tests: build gofer-cli, too",
            );
            return None;
        };

        let setup = Setup::real(&crate::acl::with_exec(&agent).await, |config| {
            config.identity = true;
            config.supervisor = Some(gofer);
        })
        .await;
        let ear = Arc::new(Ear::default());

        ear.set(setup.scheduler.clone());
        let (addr, listening) = listen(ear.clone()).await;
        let dir = std::env::temp_dir();
        let tell = move |mut spec: gofer_core::scheduler::ExecutionSpec| {
            spec.env.insert("GOFER_API_ADDR".to_owned(), EnvValue::Plain(format!("http://{addr}")));
            spec
        };

        let workloads = Volume::new(dir.to_str().expect("text")).changed(tell, false);
        Some(Self { agent, setup, workloads, ear, listening })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The binary that was built with these tests.
fn binary() -> Option<String> {
    let test = std::env::current_exe().ok()?;
    let path = test.parent()?.parent()?.join("gofer");
    path.is_file().then(|| path.to_str().map(str::to_owned)).flatten()
}

#[async_trait]
impl Harness<dyn Scheduler> for Supervised {
    fn backend(&self) -> Arc<dyn Scheduler> {
        self.setup.backend()
    }

    async fn restart(&mut self) {
        self.ear.set(None);
        // A report is one server's memory. What another one knows of an end is Nomad's word.
        let ended =
            std::mem::take(&mut *self.ear.ended.lock().unwrap_or_else(PoisonError::into_inner));

        for alloc in ended {
            let path = format!("/v1/allocation/{alloc}");
            eventually("nomad tells of a reported end", async || {
                // One that was removed may be gone already.
                let (status, body) = self.agent.call(Method::GET, &path, None).await?;
                let over = ["\"ClientStatus\":\"complete\"", "\"ClientStatus\":\"failed\""];
                if status == 404 || over.iter().any(|over| body.contains(over)) {
                    Ok(())
                } else {
                    Err(body)
                }
            })
            .await;
        }

        self.setup.restart().await;
        self.ear.set(self.setup.scheduler.clone());
    }
}

impl SchedulerHarness for Supervised {
    fn workloads(&self) -> &dyn Workloads {
        &self.workloads
    }
}

impl Ear {
    fn set(&self, scheduler: Option<NomadScheduler>) {
        *self.scheduler.lock().unwrap_or_else(PoisonError::into_inner) = scheduler;
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// `ReportEnd`; the status of gRPC.
    async fn report_end(&self, headers: &HeaderMap, message: &[u8]) -> &'static str {
        let token =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let scheduler = self.scheduler.lock().unwrap_or_else(PoisonError::into_inner).clone();

        // No server is there between two.
        let Some(scheduler) = scheduler else { return "14" };
        let token: SecretString = token.trim_start_matches("Bearer ").into();
        match scheduler.report_end(&token, decode(message)).await {
            Ok(_) => {
                self.ended
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(allocation_of(&token));
                self.accepted.fetch_add(1, Ordering::SeqCst);
                "0"
            }
            Err(_) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                "3"
            }
        }
    }
}

/// The allocation that a token was made for.
fn allocation_of(token: &SecretString) -> String {
    let payload = token.expose_secret().split('.').nth(1).expect("a payload");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64");
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    claims["nomad_allocation_id"].as_str().expect("an ID").to_owned()
}

/// A `ReportEndRequest`, after the five bytes before every message of gRPC.
fn decode(message: &[u8]) -> ReportedEnd {
    let (mut code, mut signal, mut times) = (0, 0, ExecutionTimes::UNKNOWN);
    for (field, value) in fields(&message[5..]) {
        match (field, value) {
            (1, Value::Number(number)) => code = i32::try_from(number).expect("a code"),
            (2, Value::Number(number)) => signal = i32::try_from(number).expect("a signal"),
            (3, Value::Message(at)) => times.started_at = Some(Timestamp(0).after(span(&at))),
            (4, Value::Message(at)) => times.ended_at = Some(Timestamp(0).after(span(&at))),
            (5, Value::Message(ran)) => times.ran = Some(span(&ran)),
            (field, value) => panic!("field {field}: {value:?}"),
        }
    }

    match signal {
        0 => ReportedEnd { code, signal: None, times },
        signal => ReportedEnd { code: 128 + signal, signal: Some(signal), times },
    }
}

/// A `Duration`, or a `Timestamp` as the time since 1970.
fn span(message: &[u8]) -> Duration {
    let mut span = Duration::ZERO;
    for (field, value) in fields(message) {
        match (field, value) {
            (1, Value::Number(seconds)) => span += Duration::from_secs(seconds),
            (2, Value::Number(nanos)) => span += Duration::from_nanos(nanos),
            (field, value) => panic!("field {field}: {value:?}"),
        }
    }
    span
}

#[derive(Debug)]
enum Value {
    Number(u64),
    Message(Vec<u8>),
}

/// The fields of a protobuf message that has numbers and messages only.
fn fields(message: &[u8]) -> Vec<(u64, Value)> {
    let mut bytes = message.iter().copied();
    let mut found = Vec::new();
    while let Some(tag) = number(&mut bytes) {
        let value = number(&mut bytes).expect("a number, or a length");
        let value = match tag & 7 {
            0 => Value::Number(value),
            _ => Value::Message(
                bytes.by_ref().take(usize::try_from(value).expect("short")).collect(),
            ),
        };
        found.push((tag >> 3, value));
    }
    found
}

fn number(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

async fn listen(ear: Arc<Ear>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("its address");
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let ear = ear.clone();
            let serve = service_fn(move |request| answer(ear.clone(), request));
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), serve),
            );
        }
    });
    (addr, task.abort_handle())
}

type Frames = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(
    ear: Arc<Ear>,
    request: Request<Incoming>,
) -> Result<Response<Frames>, hyper::Error> {
    assert_eq!(request.uri().path(), "/gofer.v1.ExecutionService/ReportEnd");
    let headers = request.headers().clone();
    let message = request.into_body().collect().await?.to_bytes();
    let status = ear.report_end(&headers, &message).await;
    let trailers = HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static(status),
    )]);
    let frames = vec![Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_reported_but_that_of_a_kill() {
    let Some(it) = Supervised::find("every_end_is_reported on a real agent").await else { return };
    let run = async |name: &str, spec| it.setup.run(&id(name), &spec).await;
    assert_eq!(run("zero", it.workloads.exit(0)).await, exited(0));
    assert_eq!(run("three", it.workloads.exit(3)).await, exited(3));

    let term = ExecutionState::Exited { code: 143, oom: false, signal: Some(15) };
    assert_eq!(run("term", it.workloads.die(15)).await, term);
    assert_eq!((it.ear.accepted(), it.ear.refused.load(Ordering::SeqCst)), (3, 0));

    // It may have been the kernel, for want of memory.
    let kill = ExecutionState::Exited { code: 137, oom: false, signal: Some(9) };
    assert_eq!(run("kill", it.workloads.die(9)).await, kill);
    it.listening.abort();
    assert_eq!(run("alone", it.workloads.exit(4)).await, exited(4), "nobody listens");
    assert_eq!(it.ear.accepted(), 3);

    for name in ["zero", "three", "term", "kill", "alone"] {
        it.setup.scheduler().remove(&id(name)).await.expect("nomad's own word has come");
    }

    assert_eq!(it.ear.refused.load(Ordering::SeqCst), 0);
}
