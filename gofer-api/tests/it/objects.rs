//! Objects: streamed in and out, replaced, evicted, refused, and cut off.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use gofer_proto::v1;
use gofer_proto::v1::put_object_request::Part;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::harness::{
    Clients, TestServer, assert_invalid, assert_refused, eventually, on_each_database, pipeline,
    shell,
};

on_each_database!(
    an_object_survives_whole,
    a_replaced_or_deleted_object_leaves_no_bytes,
    run_objects_are_kept_apart,
    lists_come_by_prefix_and_page,
    bad_uploads_are_refused_and_change_nothing,
    an_upload_cut_off_changes_nothing,
);

const CHUNK: usize = 64 * 1024;

fn header(key: &str) -> v1::PutObjectHeader {
    v1::PutObjectHeader {
        namespace: "default".into(),
        pipeline: "ci".into(),
        key: key.into(),
        ..Default::default()
    }
}

fn parts(
    header: v1::PutObjectHeader,
    content: &[u8],
) -> impl Stream<Item = v1::PutObjectRequest> + Send + 'static {
    let chunks: Vec<_> =
        content.chunks(CHUNK).map(|chunk| Part::Chunk(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(std::iter::once(Part::Header(header)).chain(chunks))
        .map(|part| v1::PutObjectRequest { part: Some(part) })
}

async fn put(
    clients: &Clients,
    header: v1::PutObjectHeader,
    content: &[u8],
) -> Result<v1::PutObjectResponse, Status> {
    Ok(clients.objects().put_object(parts(header, content)).await?.into_inner())
}

fn named(key: &str, run: u64) -> v1::GetObjectRequest {
    v1::GetObjectRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run,
        key: key.into(),
    }
}

async fn get(
    clients: &Clients,
    request: v1::GetObjectRequest,
) -> Result<(v1::Object, Vec<u8>), Status> {
    let mut replies = clients.objects().get_object(request).await?.into_inner();
    let (mut object, mut content) = (None, Vec::new());
    while let Some(reply) = replies.message().await? {
        match reply.part.unwrap() {
            v1::get_object_response::Part::Object(head) => object = Some(head),
            v1::get_object_response::Part::Chunk(chunk) => content.extend_from_slice(&chunk),
        }
    }
    Ok((object.unwrap(), content))
}

/// The files of users' objects in the local store, logs and bookkeeping aside.
fn stored(server: &TestServer) -> usize {
    fn count(dir: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
        let count =
            |entry: std::fs::DirEntry| if entry.path().is_dir() { count(&entry.path()) } else { 1 };
        entries.map(|entry| count(entry.unwrap())).sum()
    }
    let root = server.dir().join("data/objects");
    find(&root, "objects").map_or(0, |dir| count(&dir))
}

/// The first directory of this name below another.
fn find(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    let dirs: Vec<_> = std::fs::read_dir(dir)
        .ok()?
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    dirs.iter()
        .find(|path| path.ends_with(name))
        .cloned()
        .or_else(|| dirs.iter().find_map(|path| find(path, name)))
}

async fn nothing_stored_but(server: &TestServer, count: usize) {
    eventually("the store holds what the records name", || async {
        let found = stored(server);
        if found == count { Ok(()) } else { Err(found) }
    })
    .await;
}

async fn with_pipeline(server: &TestServer) -> Clients {
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    clients
}

async fn an_object_survives_whole(server: TestServer) {
    let clients = with_pipeline(&server).await;
    let content: Vec<u8> = (0..3 * 1024 * 1024 + 17_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let declared = v1::PutObjectHeader {
        size_bytes: Some(content.len() as u64),
        ..header("out/artifact.tar")
    };

    let stored = put(&clients, declared, &content).await.unwrap().object.unwrap();
    assert_eq!((stored.size_bytes, stored.sha256.len()), (content.len() as u64, 64));
    let (object, found) = get(&clients, named("out/artifact.tar", 0)).await.unwrap();
    assert_eq!(object, stored);
    assert!(found == content, "the bytes are others");

    let head = v1::HeadObjectRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 0,
        key: "out/artifact.tar".into(),
    };

    assert_eq!(
        clients.objects().head_object(head).await.unwrap().into_inner().object.unwrap(),
        stored
    );

    put(&clients, header("empty"), b"").await.unwrap();
    let (object, found) = get(&clients, named("empty", 0)).await.unwrap();
    assert_eq!((object.size_bytes, found.len()), (0, 0));
}

async fn a_replaced_or_deleted_object_leaves_no_bytes(server: TestServer) {
    let clients = with_pipeline(&server).await;
    put(&clients, header("k"), b"old").await.unwrap();
    put(&clients, header("k"), b"new").await.unwrap();
    assert_eq!(get(&clients, named("k", 0)).await.unwrap().1, b"new");
    nothing_stored_but(&server, 1).await;

    let kept = v1::PutObjectHeader { if_absent: true, ..header("k") };
    assert_refused(
        put(&clients, kept, b"other").await,
        Code::AlreadyExists,
        "OBJECT_ALREADY_EXISTS",
    );
    assert_eq!(get(&clients, named("k", 0)).await.unwrap().1, b"new");

    let delete = v1::DeleteObjectRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 0,
        key: "k".into(),
    };

    assert!(clients.objects().delete_object(delete.clone()).await.unwrap().into_inner().existed);
    assert!(!clients.objects().delete_object(delete).await.unwrap().into_inner().existed);
    assert_refused(get(&clients, named("k", 0)).await, Code::NotFound, "OBJECT_NOT_FOUND");
    nothing_stored_but(&server, 0).await;
}

async fn run_objects_are_kept_apart(server: TestServer) {
    let clients = with_pipeline(&server).await;
    clients.start("ci").await;
    put(&clients, header("k"), b"of the pipeline").await.unwrap();
    put(&clients, v1::PutObjectHeader { run: 1, ..header("k") }, b"of the run").await.unwrap();
    assert_eq!(get(&clients, named("k", 0)).await.unwrap().1, b"of the pipeline");
    assert_eq!(get(&clients, named("k", 1)).await.unwrap().1, b"of the run");
    let missing = put(&clients, v1::PutObjectHeader { run: 9, ..header("k") }, b"x").await;
    assert_refused(missing, Code::NotFound, "RUN_NOT_FOUND");
    clients.finished("ci", 1).await;
}

async fn lists_come_by_prefix_and_page(server: TestServer) {
    let clients = with_pipeline(&server).await;
    for key in ["a/1", "a/2", "a/3", "b", "a_1"] {
        put(&clients, header(key), key.as_bytes()).await.unwrap();
    }

    let list = v1::ListObjectsRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        prefix: "a/".into(),
        page_size: 2,
        ..Default::default()
    };

    let first = clients.objects().list_objects(list.clone()).await.unwrap().into_inner();
    let next = v1::ListObjectsRequest { page_token: first.next_page_token, ..list };
    let second = clients.objects().list_objects(next).await.unwrap().into_inner();
    let keys: Vec<_> =
        first.objects.iter().chain(&second.objects).map(|object| object.key.as_str()).collect();
    assert_eq!((keys, second.next_page_token.as_str()), (vec!["a/1", "a/2", "a/3"], ""));
}

async fn bad_uploads_are_refused_and_change_nothing(server: TestServer) {
    let clients = with_pipeline(&server).await;
    for key in ["", "../x", "a//b", "a b", "/abs"] {
        assert_invalid(put(&clients, header(key), b"x").await, &["key", key, "separated by `/`"]);
    }

    let unknown = v1::PutObjectHeader { pipeline: "ghost".into(), ..header("k") };
    assert_refused(put(&clients, unknown, b"x").await, Code::NotFound, "PIPELINE_NOT_FOUND");
    let short = v1::PutObjectHeader { size_bytes: Some(10), ..header("k") };
    assert_invalid(
        put(&clients, short, b"only six").await,
        &["header.size_bytes", "10", "8 bytes arrived"],
    );

    let headless =
        stream::iter([v1::PutObjectRequest { part: Some(Part::Chunk(Bytes::from_static(b"x"))) }]);
    assert_invalid(clients.objects().put_object(headless).await, &["header", "first message"]);
    let twice = parts(header("k"), b"x").chain(parts(header("k"), b"y"));
    assert_invalid(clients.objects().put_object(twice).await, &["header", "only the first"]);

    let nothing = clients.objects().put_object(stream::empty()).await;
    assert_invalid(nothing, &["header", "first message"]);
    assert_refused(get(&clients, named("k", 0)).await, Code::NotFound, "OBJECT_NOT_FOUND");
    nothing_stored_but(&server, 0).await;
}

async fn an_upload_cut_off_changes_nothing(server: TestServer) {
    let clients = with_pipeline(&server).await;
    put(&clients, header("k"), b"old").await.unwrap();
    let (sender, receiver) = mpsc::channel(4);
    let mut objects = clients.objects();
    let upload =
        tokio::spawn(async move { objects.put_object(ReceiverStream::new(receiver)).await });
    let send = async |part| sender.send(v1::PutObjectRequest { part: Some(part) }).await.unwrap();

    send(Part::Header(header("k"))).await;
    for _ in 0..64 {
        send(Part::Chunk(Bytes::from(vec![7; CHUNK]))).await;
    }

    eventually("the server works on the upload", || async {
        let calls = server.server().activity().calls;
        if calls > 0 { Ok(()) } else { Err(calls) }
    })
    .await;
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    eventually("the upload has come to rest", || async {
        let calls = server.server().activity().calls;
        if calls == 0 { Ok(()) } else { Err(calls) }
    })
    .await;
    assert!(get(&clients, named("k", 0)).await.unwrap().1 == b"old", "the object is another");
    nothing_stored_but(&server, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_size_and_number_are_kept() {
    let server = TestServer::start_with(|config| {
        config.limits.object_max_bytes = 100_000;
        config.limits.pipeline_objects = 3;
    })
    .await;
    let clients = with_pipeline(&server).await;

    for key in ["first", "second", "third"] {
        put(&clients, header(key), b"x").await.unwrap();
    }

    let evicted = put(&clients, header("fourth"), b"x").await.unwrap().evicted_keys;
    assert_eq!(evicted, ["first"]);
    assert_refused(get(&clients, named("first", 0)).await, Code::NotFound, "OBJECT_NOT_FOUND");
    nothing_stored_but(&server, 3).await;

    let declared = v1::PutObjectHeader { size_bytes: Some(100_001), ..header("big") };
    assert_refused(put(&clients, declared, b"").await, Code::ResourceExhausted, "OBJECT_TOO_LARGE");
    let undeclared = put(&clients, header("big"), &vec![0; 200_000]).await;
    assert_refused(undeclared, Code::ResourceExhausted, "OBJECT_TOO_LARGE");
    put(&clients, header("third"), &vec![0; 100_000]).await.unwrap();
    nothing_stored_but(&server, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stands_still_is_given_up() {
    let server =
        TestServer::start_with(|config| config.limits.idle_timeout = Duration::from_millis(50))
            .await;
    let clients = with_pipeline(&server).await;
    let stalled = parts(header("k"), b"x").chain(stream::pending());
    assert_refused(
        clients.objects().put_object(stalled).await,
        Code::DeadlineExceeded,
        "STREAM_IDLE",
    );
    nothing_stored_but(&server, 0).await;
}
