//! `[server.metrics]`: what a scraper sees, and who may scrape.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use gofer_api::config::ServerConfig;
use gofer_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Clients, TestServer, eventually, pipeline, shell};

const DOCUMENTED: &str = include_str!("../../../docs/src/logging.md");

fn with_metrics(config: &mut ServerConfig) {
    config.server.metrics.listen = Some("127.0.0.1:0".parse().unwrap());
}

/// The status line and the rest of the answer.
async fn ask(addr: SocketAddr, head: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("{head}Host: gofer\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();

    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer}")), answer)
}

async fn scrape(server: &TestServer) -> String {
    let addr = server.server().metrics_addr().expect("a listener");
    let (status, answer) = ask(addr, "GET /metrics HTTP/1.1\r\n").await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The value of a sample, by its name and labels as the text has them.
fn sample(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().unwrap_or_else(|_| panic!("{name}: {line}")))
}

async fn run_one(clients: &Clients, name: &str, command: &str) {
    clients.register(pipeline(name, vec![shell("only", command)])).await;
    let run = clients.start(name).await;
    clients.finished(name, run.run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_does_is_counted() {
    let server = TestServer::start_with(with_metrics).await;
    let clients = server.anybody();
    run_one(&clients, "good", "true").await;
    run_one(&clients, "bad", "exit 3").await;

    let of = |status: &str| format!("{{namespace=\"default\",pipeline=\"\",status=\"{status}\"}}");
    eventually("the logs are archived", || async {
        let text = scrape(&server).await;
        let put = "gofer_backend_calls_total{backend=\"scheduler\",call=\"remove\",outcome=\"ok\"}";
        if sample(&text, put) == Some(2.0) { Ok(()) } else { Err(text) }
    })
    .await;

    let text = scrape(&server).await;
    let expect =
        |name: &str, value: f64| assert_eq!(sample(&text, name), Some(value), "{name}\n{text}");
    expect("gofer_runs_created_total{namespace=\"default\",pipeline=\"\"}", 2.0);
    expect(&format!("gofer_runs_completed_total{}", of("successful")), 1.0);
    expect(&format!("gofer_runs_completed_total{}", of("failed")), 1.0);
    expect(&format!("gofer_attempts_completed_total{}", of("failed")), 1.0);
    expect("gofer_run_duration_seconds_count{namespace=\"default\",pipeline=\"\"}", 2.0);
    expect("gofer_run_queue_seconds_count{namespace=\"default\",pipeline=\"\"}", 2.0);
    expect("gofer_attempt_phase_seconds_count{phase=\"running\"}", 2.0);
    expect("gofer_runs{state=\"running\"}", 0.0);
    expect("gofer_slots_in_use", 0.0);
    expect("gofer_slots_waiting", 0.0);
    expect("gofer_calls_total{method=\"gofer.v1.RunService/StartRun\",code=\"ok\"}", 2.0);
    let starts = "{backend=\"scheduler\",call=\"start\",outcome=\"ok\"}";
    expect(&format!("gofer_backend_calls_total{starts}"), 2.0);
    let commits = sample(&text, "gofer_commit_seconds_count").unwrap_or_default();
    assert!(commits >= 2.0, "each run ends with a commit of its own: {text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let server = TestServer::start_with(with_metrics).await;
    // A family without a series is not in the text: a run with a retry has one of each.
    let mut flaky = shell("flaky", "test $GOFER_ATTEMPT = 2");
    flaky.retries = Some(v1::RetryPolicy { attempts: 1, ..Default::default() });
    let clients = server.anybody();
    clients.register(pipeline("flaky", vec![flaky])).await;
    let run = clients.start("flaky").await;
    clients.finished("flaky", run.run).await;
    let text = scrape(&server).await;

    let exported: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let documented: BTreeSet<(String, String)> = DOCUMENTED
        .lines()
        .filter_map(|line| line.strip_prefix("| `gofer_")?.split_once("` | "))
        .filter_map(|(name, rest)| {
            Some((format!("gofer_{name}"), rest.split_once(" |")?.0.to_owned()))
        })
        .filter(|(name, _)| !name.contains(' '))
        .collect();
    assert_eq!(exported, documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_have_series_of_their_own_where_asked_for() {
    let server = TestServer::start_with(|config| {
        with_metrics(config);
        config.server.metrics.pipeline_label = true;
    })
    .await;
    run_one(&server.anybody(), "good", "true").await;

    let text = scrape(&server).await;
    let created = "gofer_runs_created_total{namespace=\"default\",pipeline=\"good\"}";
    assert_eq!(sample(&text, created), Some(1.0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_shows_its_token_and_reads_metrics_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "scraper\n").unwrap();
    let server = TestServer::start_with(|config| {
        with_metrics(config);
        config.server.metrics.token_file = Some(path.clone());
    })
    .await;
    let addr = server.server().metrics_addr().unwrap();

    let (status, answer) = ask(addr, "GET /metrics HTTP/1.1\r\n").await;
    assert!(status == 401 && answer.contains("token_file"), "{answer}");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let wrong = format!("GET /metrics HTTP/1.1\r\n{}", bearer("scrape"));
    assert_eq!(ask(addr, &wrong).await.0, 401);

    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n{}", bearer("scraper"));
    assert_eq!(ask(addr, &get("/metrics")).await.0, 200);
    assert_eq!(ask(addr, &get("/")).await.0, 404);
    let post = format!("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n{}", bearer("scraper"));
    assert_eq!(ask(addr, &post).await.0, 405);

    std::fs::write(&path, "another one\n").unwrap();
    let new = format!("GET /metrics HTTP/1.1\r\n{}", bearer("another one"));
    eventually("the new token is good", || async {
        let (status, answer) = ask(addr, &new).await;
        if status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(ask(addr, &get("/metrics")).await.0, 401);
}

#[test]
fn off_loopback_a_token_and_tls_are_needed() {
    let mut config = ServerConfig::default();
    config.server.metrics.listen = Some("0.0.0.0:9469".parse().unwrap());
    let refused = config.validate().expect_err("it is open to everybody").to_string();
    assert!(refused.contains("`server.metrics.token_file`"), "{refused}");
    assert!(refused.contains("there is no TLS"), "{refused}");

    config.server.metrics.token_file = Some("/etc/gofer/metrics-token".into());
    config.server.allow_insecure_listen = true;
    config.validate().unwrap();
}
