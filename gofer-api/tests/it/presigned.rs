//! Objects by URL: what the answers promise is tried on a real store, when one is named; the local
//! store has no URLs.

use std::time::Duration;

use gofer_api::config::{ObjectsBackend, ServerConfig};
use gofer_conformance::skip;
use gofer_core::object_store::{ListPage, ObjectStore as _};
use gofer_proto::v1;
use gofer_proto::v1::event::Details;
use gofer_store_s3::{S3Config, S3ObjectStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::harness::{
    Clients, TestServer, assert_invalid, assert_refused, eventually, pipeline, shell,
};

/// A bucket of the store that the environment names, under a prefix of the test's own.
fn settings(test: &str) -> Option<S3Config> {
    let Ok(endpoint) = std::env::var("GOFER_TEST_S3_ENDPOINT") else {
        skip("s3", test, "GOFER_TEST_S3_ENDPOINT is not set");
        return None;
    };
    let named = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    Some(S3Config {
        bucket: named("GOFER_TEST_S3_BUCKET"),
        prefix: format!("gofer-test/{:016x}/", rand::random::<u64>()),
        endpoint: Some(endpoint),
        access_key: Some(named("GOFER_TEST_S3_ACCESS_KEY")),
        secret_key: Some(named("GOFER_TEST_S3_SECRET_KEY").into()),
        ..S3Config::default()
    })
}

fn on(s3: &S3Config) -> impl FnOnce(&mut ServerConfig) + use<> {
    let s3 = s3.clone();
    |config| {
        config.objects.backend = ObjectsBackend::S3;
        config.objects.s3 = s3;
        config.limits.object_max_bytes = 100_000;
    }
}

async fn with_pipeline(server: &TestServer) -> Clients {
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    clients
}

/// How many objects of users lie in the store, named or not.
async fn stored(s3: &S3Config) -> usize {
    let store = S3ObjectStore::connect(s3.clone()).await.unwrap();
    store.list("objects/", ListPage { after: None, limit: 100 }).await.unwrap().objects.len()
}

fn begin_request(key: &str, size_bytes: u64) -> v1::BeginObjectUploadRequest {
    v1::BeginObjectUploadRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        key: key.into(),
        size_bytes: Some(size_bytes),
        ..Default::default()
    }
}

async fn begin(
    clients: &Clients,
    request: v1::BeginObjectUploadRequest,
) -> Result<v1::BeginObjectUploadResponse, Status> {
    Ok(clients.objects().begin_object_upload(request).await?.into_inner())
}

async fn complete(clients: &Clients, id: &str) -> Result<v1::CompleteObjectUploadResponse, Status> {
    let request = v1::CompleteObjectUploadRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 0,
        upload_id: id.into(),
    };
    Ok(clients.objects().complete_object_upload(request).await?.into_inner())
}

async fn url(clients: &Clients, key: &str) -> Result<v1::GetObjectUrlResponse, Status> {
    let request = v1::GetObjectUrlRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        key: key.into(),
        ..Default::default()
    };
    Ok(clients.objects().get_object_url(request).await?.into_inner())
}

/// One plain request, and the status and body of its answer.
async fn http(method: &str, url: &str, headers: &[v1::UploadHeader], body: &[u8]) -> (u16, String) {
    let (host, path) =
        url.strip_prefix("http://").expect("a URL in clear").split_once('/').expect("a path");
    let headers: String =
        headers.iter().map(|header| format!("{}: {}\r\n", header.name, header.value)).collect();
    let length = body.len();
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\nconnection: \
         close\r\n"
    );
    let mut connection = TcpStream::connect(host).await.unwrap();

    connection.write_all(format!("{head}{headers}\r\n").as_bytes()).await.unwrap();
    connection.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();

    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn put(begun: &v1::BeginObjectUploadResponse, body: &[u8]) -> u16 {
    http("PUT", &begun.url, &begun.headers, body).await.0
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_has_no_urls_and_says_what_to_use() {
    let server = TestServer::start().await;
    let clients = with_pipeline(&server).await;
    let refused = begin(&clients, begin_request("k", 1)).await;
    assert!(
        refused.as_ref().is_err_and(|status| status.message().ends_with("use PutObject")),
        "{refused:?}"
    );
    assert_refused(refused, Code::FailedPrecondition, "UNSUPPORTED");
    assert_refused(url(&clients, "k").await, Code::NotFound, "OBJECT_NOT_FOUND");

    for (field, value, request) in [
        ("key", "../x", begin_request("../x", 1)),
        (
            "sha256",
            "AB",
            v1::BeginObjectUploadRequest { sha256: "AB".into(), ..begin_request("k", 1) },
        ),
        (
            "ttl",
            "0ns",
            v1::BeginObjectUploadRequest { ttl: Some(Default::default()), ..begin_request("k", 1) },
        ),
        (
            "ttl",
            "86401s",
            v1::BeginObjectUploadRequest { ttl: seconds(86_401), ..begin_request("k", 1) },
        ),
        (
            "size_bytes",
            "PutObject",
            v1::BeginObjectUploadRequest { size_bytes: None, ..begin_request("k", 1) },
        ),
    ] {
        assert_invalid(begin(&clients, request).await, &[field, value]);
    }

    let large = begin_request("k", u64::MAX);
    assert_refused(begin(&clients, large).await, Code::ResourceExhausted, "OBJECT_TOO_LARGE");
    assert_invalid(complete(&clients, "short").await, &["upload_id", "32 digits"]);
    assert_refused(complete(&clients, &"0".repeat(32)).await, Code::NotFound, "UPLOAD_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_by_url_is_an_object_once_it_is_complete() {
    let Some(s3) = settings("direct::an_upload_by_url_is_an_object_once_it_is_complete") else {
        return;
    };

    let server = TestServer::start_with(on(&s3)).await;
    let clients = with_pipeline(&server).await;
    let old = begin(&clients, begin_request("dir/report.html", 3)).await.unwrap();
    assert_refused(
        complete(&clients, &old.upload_id).await,
        Code::FailedPrecondition,
        "UPLOAD_NOT_THERE",
    );
    assert_eq!(put(&old, b"old").await, 200);
    assert_refused(url(&clients, "dir/report.html").await, Code::NotFound, "OBJECT_NOT_FOUND");
    complete(&clients, &old.upload_id).await.unwrap();

    let old_url = url(&clients, "dir/report.html").await.unwrap().url;
    assert_eq!(http("GET", &old_url, &[], b"").await, (200, "old".to_owned()));

    let new = begin(&clients, begin_request("dir/report.html", 5)).await.unwrap();
    for other in [&b"new"[..], b"much newer", b""] {
        assert_eq!(put(&new, other).await, 403, "a length that was not declared");
    }

    assert_eq!(put(&new, b"newer").await, 200);
    assert_eq!(put(&new, b"other").await, 412, "the URL writes once");
    assert_eq!(
        http("GET", &old_url, &[], b"").await,
        (200, "old".to_owned()),
        "readers see the old until then"
    );

    let done = complete(&clients, &new.upload_id).await.unwrap();
    assert_eq!(done.object.as_ref().unwrap().size_bytes, 5);
    assert_eq!(complete(&clients, &new.upload_id).await.unwrap(), done, "the same once more");
    let read = url(&clients, "dir/report.html").await.unwrap();
    assert_eq!(read.object, done.object);
    assert_eq!(http("GET", &read.url, &[], b"").await, (200, "newer".to_owned()));
    assert_eq!(http("GET", &old_url, &[], b"").await.0, 404, "what was replaced is gone");
    assert_eq!(put(&new, b"later").await, 412, "also after the completion");
    assert_eq!(stored(&s3).await, 1);

    let events = v1::ListEventsRequest { types: vec!["object_put".into()], ..Default::default() };
    let events = clients.events().list_events(events).await.unwrap().into_inner().events;
    assert_eq!(events.len(), 2);
    assert!(!format!("{events:?}").contains("X-Amz-"), "a URL in an event");

    let issued =
        v1::ListEventsRequest { types: vec!["object_url_issued".into()], ..Default::default() };
    let issued = clients.events().list_events(issued).await.unwrap().into_inner().events;
    assert!(!format!("{issued:?}").contains("http"), "a URL in an event");

    let told = issued.iter().map(|event| match event.details.as_ref().unwrap() {
        Details::ObjectUrlIssued(issued) => {
            (event.actor.as_str(), issued.key.as_str(), issued.upload)
        }
        other => panic!("{other:?}"),
    });

    let (written, shown) = (("dev", "dir/report.html", true), ("dev", "dir/report.html", false));
    assert_eq!(told.collect::<Vec<_>>(), [written, shown, written, shown]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_no_object_and_leaves_no_bytes() {
    let Some(s3) = settings("direct::what_breaks_a_rule_is_no_object_and_leaves_no_bytes") else {
        return;
    };

    let server = TestServer::start_with(on(&s3)).await;
    let clients = with_pipeline(&server).await;
    assert_refused(
        begin(&clients, begin_request("k", 100_001)).await,
        Code::ResourceExhausted,
        "OBJECT_TOO_LARGE",
    );

    let short = begin(&clients, begin_request("k", 4)).await.unwrap();
    assert_eq!(put(&short, b"longer than four").await, 403);
    assert_refused(
        complete(&clients, &short.upload_id).await,
        Code::FailedPrecondition,
        "UPLOAD_NOT_THERE",
    );

    let absent = v1::BeginObjectUploadRequest { if_absent: true, ..begin_request("k", 1) };
    let (first, second) = (
        begin(&clients, absent.clone()).await.unwrap(),
        begin(&clients, absent.clone()).await.unwrap(),
    );

    for begun in [&first, &second] {
        assert_eq!(put(begun, b"x").await, 200);
    }

    complete(&clients, &second.upload_id).await.unwrap();
    assert_refused(
        complete(&clients, &first.upload_id).await,
        Code::AlreadyExists,
        "OBJECT_ALREADY_EXISTS",
    );
    assert_refused(begin(&clients, absent).await, Code::AlreadyExists, "OBJECT_ALREADY_EXISTS");
    assert_eq!(stored(&s3).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_completed_is_swept() {
    let Some(s3) = settings("direct::what_is_never_completed_is_swept") else { return };
    let server = TestServer::start_with(on(&s3)).await;
    let clients = with_pipeline(&server).await;
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let request = |key| v1::BeginObjectUploadRequest { ttl, ..begin_request(key, 1) };
    let (kept, left) = (
        begin(&clients, request("kept")).await.unwrap(),
        begin(&clients, request("left")).await.unwrap(),
    );

    for begun in [&kept, &left] {
        assert_eq!(put(begun, b"x").await, 200);
    }

    complete(&clients, &kept.upload_id).await.unwrap();
    eventually("the URL has ended", || async {
        let status = http("GET", &left.url, &[], b"").await.0;
        let end = left.expires_at.unwrap().seconds;
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        if i64::try_from(now).unwrap() > end + 1 { Ok(()) } else { Err(status) }
    })
    .await;

    let dir = server.stop().await;
    let impatient = |config: &mut ServerConfig| {
        on(&s3)(config);
        config.retention.uploads = Duration::from_millis(1);
    };

    let server = TestServer::restart_with(dir, impatient).await;
    eventually("only what was completed is there", || async {
        let found = stored(&s3).await;
        if found == 1 { Ok(()) } else { Err(found) }
    })
    .await;

    let clients = server.anybody();
    assert_refused(complete(&clients, &left.upload_id).await, Code::NotFound, "UPLOAD_NOT_FOUND");
    assert_eq!(
        http("GET", &url(&clients, "kept").await.unwrap().url, &[], b"").await,
        (200, "x".to_owned())
    );
}

/// A run's token ends with its run; what it was given lives on. Tried on the local store, which
/// refuses after the rules did.
#[tokio::test(flavor = "multi_thread")]
async fn a_runs_urls_are_good_for_an_hour_at_most() {
    let configure =
        |config: &mut ServerConfig| config.limits.url_ttl = Duration::from_secs(2 * 3600);
    let server = TestServer::start_with(configure).await;
    let clients = server.anybody();
    let file = server.dir().join("token");
    let line = format!(
        "printf %s \"$GOFER_API_TOKEN\" > {0}.new; mv {0}.new {0}; exec sleep 600",
        file.display()
    );

    clients.register(pipeline("ci", vec![shell("t", &line)])).await;
    clients.start("ci").await;
    let token =
        eventually("the task has written its token", || async { std::fs::read_to_string(&file) })
            .await;
    let run = server.with_token(&token);
    let lasting = |ttl| v1::BeginObjectUploadRequest { ttl: seconds(ttl), ..begin_request("k", 1) };

    for (who, longest) in [(&run, 3600), (&clients, 7200)] {
        assert_refused(begin(who, lasting(longest)).await, Code::FailedPrecondition, "UNSUPPORTED");
        let rule = format!("1 second to {longest} seconds");
        assert_invalid(
            begin(who, lasting(longest + 1)).await,
            &["ttl", &format!("{}s", longest + 1), &rule],
        );
    }

    let events =
        v1::ListEventsRequest { types: vec!["object_url_issued".into()], ..Default::default() };
    let issued = clients.events().list_events(events).await.unwrap().into_inner().events;
    assert!(issued.is_empty(), "nobody has got any: {issued:?}");
    clients.kill("ci", 1).await;
}
