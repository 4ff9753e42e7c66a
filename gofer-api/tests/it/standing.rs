//! Whoever loses a token loses what is open with it: every kind of stream, and every way to lose
//! one but expiry, which `src/auth/standing.rs` has.

use std::time::Duration;

use bytes::Bytes;
use gofer_proto::v1;
use gofer_proto::v1::put_object_request::Part;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::exec::{Session, end, is_gone, running, stubborn};
use crate::harness::{Clients, TestServer, eventually, on_each_database, pipeline, shell};

on_each_database!(the_end_of_a_run_ends_what_its_token_has_open);

/// Far more than the second that it may take, and far less than for ever, which it took.
const PROMPTLY: Duration = Duration::from_secs(15);
/// More than all that lies between the store and a caller who does not read.
const LARGE: usize = 48 << 20;

/// What a caller has open.
struct Streams {
    /// How each ends, by name.
    ends: Vec<(&'static str, JoinHandle<Status>)>,
    upload: mpsc::Sender<v1::PutObjectRequest>,
    /// Lets the reader of the object go on, which has begun and waits.
    go_on: oneshot::Sender<()>,
}

/// Reads until the stream ends with an error.
async fn error<T>(mut stream: Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("it ended as if nothing had been"),
            Err(status) => return status,
        }
    }
}

/// Begins to read, and goes on when it is told.
fn later<T: Send + 'static>(
    mut stream: Streaming<T>,
    go_on: oneshot::Receiver<()>,
) -> JoinHandle<Status> {
    tokio::spawn(async move {
        let first = stream.message().await;
        assert!(matches!(first, Ok(Some(_))), "it begins");
        let _ = go_on.await;
        error(stream).await
    })
}

impl Streams {
    /// Everything but a command, which run tokens may not run. `run` goes on all the while.
    async fn open(clients: &Clients, run: u64) -> Self {
        let (namespace, pipeline) = ("default".to_owned(), "ci".to_owned());
        let request = v1::FollowEventsRequest { after_id: Some(0), ..Default::default() };
        let events = clients.events().follow_events(request).await.unwrap().into_inner();
        let request =
            v1::FollowRunRequest { namespace: namespace.clone(), pipeline: pipeline.clone(), run };
        let updates = clients.runs().follow_run(request).await.unwrap().into_inner();
        let request = v1::StreamLogsRequest {
            namespace: namespace.clone(),
            pipeline: pipeline.clone(),
            run,
            task: "t".into(),
            follow: true,
            ..Default::default()
        };

        let logs = clients.task_runs().stream_logs(request).await.unwrap().into_inner();
        let request = v1::GetObjectRequest { namespace, pipeline, run: 0, key: "large".into() };
        let object = clients.objects().get_object(request).await.unwrap().into_inner();
        let (go_on, may_go_on) = oneshot::channel();

        let (upload, parts) = mpsc::channel(4);
        upload.send(header("uploaded")).await.unwrap();
        upload.send(chunk(b"half of it")).await.unwrap();
        let mut objects = clients.objects();
        let uploading = tokio::spawn(async move {
            let put = objects.put_object(ReceiverStream::new(parts)).await;
            put.map_or_else(|status| status, |_| Status::ok("it was put"))
        });

        let ends = vec![
            ("FollowEvents", tokio::spawn(error(events))),
            ("FollowRun", tokio::spawn(error(updates))),
            ("StreamLogs", tokio::spawn(error(logs))),
            ("GetObject", later(object, may_go_on)),
            ("PutObject", uploading),
        ];

        Self { ends, upload, go_on }
    }

    /// Asserts that each stream ends for this reason.
    async fn all_end(self, reason: &str) {
        let mut go_on = Some(self.go_on);
        for (name, ended) in self.ends {
            // Not before the others have ended: it is read faster than a loss has to be noticed.
            if let Some(go_on) = go_on.take_if(|_| name == "GetObject") {
                let _ = go_on.send(());
            }
            let status = tokio::time::timeout(PROMPTLY, ended).await;
            let status = status.unwrap_or_else(|_| panic!("{name} goes on")).unwrap();
            assert_lost(name, &status, reason);
        }
        let closed = tokio::time::timeout(PROMPTLY, self.upload.closed()).await;
        assert!(closed.is_ok(), "somebody still takes the rest");
    }
}

#[track_caller]
fn assert_lost(name: &str, status: &Status, reason: &str) {
    let found = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    assert_eq!(
        (status.code(), found.as_str()),
        (Code::Unauthenticated, reason),
        "{name}: {status:?}"
    );
}

fn header(key: &str) -> v1::PutObjectRequest {
    let (namespace, pipeline) = ("default".into(), "ci".into());
    let header = v1::PutObjectHeader { namespace, pipeline, key: key.into(), ..Default::default() };
    v1::PutObjectRequest { part: Some(Part::Header(header)) }
}

fn chunk(content: &[u8]) -> v1::PutObjectRequest {
    v1::PutObjectRequest { part: Some(Part::Chunk(Bytes::copy_from_slice(content))) }
}

async fn put_large(clients: &Clients) {
    let piece = vec![7; 1 << 20];
    let parts =
        std::iter::once(header("large")).chain((0..LARGE >> 20).map(move |_| chunk(&piece)));
    clients.objects().put_object(futures::stream::iter(parts)).await.unwrap();
}

async fn create(
    manager: &Clients,
    kind: v1::TokenKind,
    namespaces: &[&str],
) -> v1::CreateTokenResponse {
    let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
    let request = v1::CreateTokenRequest { kind: kind.into(), namespaces, ..Default::default() };
    manager.tokens().create_token(request).await.unwrap().into_inner()
}

/// One way to lose a token.
async fn lose(manager: &Clients, way: &str, id: String) {
    match way {
        "disabled" => {
            drop(manager.tokens().disable_token(v1::DisableTokenRequest { id }).await.unwrap())
        }
        "deleted" => {
            drop(manager.tokens().delete_token(v1::DeleteTokenRequest { id }).await.unwrap())
        }
        _ => {
            let request = v1::DeleteNamespaceRequest { id: "spare".into() };
            manager.namespaces().delete_namespace(request).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_token_ends_every_stream_and_command() {
    let server = running().await;
    let manager = server.anybody();
    put_large(&manager).await;
    let spare = v1::CreateNamespaceRequest { id: "spare".into(), ..Default::default() };
    manager.namespaces().create_namespace(spare).await.unwrap();

    let ways = [
        (v1::TokenKind::Management, "disabled", "TOKEN_DISABLED"),
        (v1::TokenKind::Client, "disabled", "TOKEN_DISABLED"),
        (v1::TokenKind::Client, "deleted", "TOKEN_UNKNOWN"),
        (v1::TokenKind::Client, "of a namespace that is deleted", "TOKEN_NAMESPACE_GONE"),
    ];

    for (kind, way, reason) in ways {
        let namespaces: &[&str] =
            if kind == v1::TokenKind::Client { &["default", "spare"] } else { &[] };
        create(&manager, v1::TokenKind::Management, &[]).await;
        let made = create(&manager, kind, namespaces).await;
        let caller = server.with_token(&made.secret);
        let mut streams = Streams::open(&caller, 1).await;
        let (session, pid) = stubborn(&caller).await;
        let Session { input, output } = session;

        streams.ends.push(("Exec", tokio::spawn(error(output))));

        lose(&manager, way, made.token.unwrap().id).await;
        streams.all_end(reason).await;
        is_gone(&pid).await;
        drop(input);
    }

    let request = v1::HeadObjectRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 0,
        key: "uploaded".into(),
    };

    assert_eq!(
        manager.objects().head_object(request).await.unwrap_err().code(),
        Code::NotFound,
        "no half is an object"
    );
    end(&server).await;
}

/// A caller that neither reads nor writes any more keeps no command alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_does_not_read_loses_the_command_all_the_same() {
    let server = running().await;
    let manager = server.anybody();
    let made = create(&manager, v1::TokenKind::Client, &["default"]).await;
    let (session, pid) = stubborn(&server.with_token(&made.secret)).await;
    lose(&manager, "disabled", made.token.unwrap().id).await;
    is_gone(&pid).await;
    drop(session);
    end(&server).await;
}

/// A stream whose header comes late is of the token as it is then.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_comes_late_does_not_bring_a_token_back() {
    let server = running().await;
    let manager = server.anybody();
    let made = create(&manager, v1::TokenKind::Client, &["default"]).await;
    let caller = server.with_token(&made.secret);
    let (input, inputs) = mpsc::channel::<v1::ExecRequest>(1);
    let mut task_runs = caller.task_runs();
    let mut opening =
        Box::pin(async move { task_runs.exec(ReceiverStream::new(inputs)).await.map(drop) });
    let (upload, parts) = mpsc::channel::<v1::PutObjectRequest>(1);
    let mut objects = caller.objects();
    let mut putting =
        Box::pin(async move { objects.put_object(ReceiverStream::new(parts)).await.map(drop) });

    // Both are on the connection before this call, which is answered.
    assert!(
        futures::poll!(opening.as_mut()).is_pending()
            && futures::poll!(putting.as_mut()).is_pending()
    );
    caller.tokens().who_am_i(v1::WhoAmIRequest {}).await.unwrap();

    let (opening, putting) = (tokio::spawn(opening), tokio::spawn(putting));
    lose(&manager, "disabled", made.token.unwrap().id).await;
    for ended in [opening, putting] {
        let status =
            tokio::time::timeout(PROMPTLY, ended).await.expect("it ends").unwrap().unwrap_err();
        assert_lost("a stream without a header", &status, "TOKEN_DISABLED");
    }

    drop((input, upload));
    end(&server).await;
}

async fn the_end_of_a_run_ends_what_its_token_has_open(server: TestServer) {
    let manager = server.anybody();
    let file = server.dir().join("token");
    let line = format!(
        "test -e {0} || {{ printf %s \"$GOFER_API_TOKEN\" > {0}.new; mv {0}.new {0}; }}; echo \
         begun; exec sleep 600",
        file.display()
    );

    manager.register(pipeline("ci", vec![shell("t", &line)])).await;
    put_large(&manager).await;
    manager.start("ci").await;
    let token =
        eventually("the task has written its token", || async { std::fs::read_to_string(&file) })
            .await;

    manager.start("ci").await;
    eventually("the other run runs", || async {
        let found = manager.get_run("ci", 2).await;
        let runs = found.task_runs.iter().any(|task| task.state() == v1::TaskRunState::Running);
        if runs { Ok(()) } else { Err(found) }
    })
    .await;

    let streams = Streams::open(&server.with_token(&token), 2).await;
    manager.kill("ci", 1).await;
    streams.all_end("TOKEN_UNKNOWN").await;
    manager.kill("ci", 2).await;
}
