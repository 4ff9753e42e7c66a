//! What callers can make the server hold does not depend on how much they send. A binary of its
//! own: the allocator counts for the whole process, clients and all, so nothing else may run
//! beside; and its tests run one after the other.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use gofer_api::config::AuthMode;
use gofer_proto::v1;
use peak_alloc::PeakAlloc;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tonic::Code;

#[path = "../it/database.rs"]
#[expect(dead_code, reason = "shared with the other tests, which need all of it")]
mod database;
#[path = "../it/harness.rs"]
#[expect(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "shared with the other tests, which need all of it"
)]
mod harness;
#[path = "../it/http2.rs"]
#[expect(dead_code, reason = "shared with the other tests, which need all of it")]
mod http2;
#[path = "../it/raw.rs"]
mod raw;

use harness::{TestServer, eventually};
use http2::Http2;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1024 * 1024;
/// The longest message of a request.
const MESSAGE_BYTES: usize = 4 * MIB;
/// What one connection may make the server hold.
const CONNECTION_BYTES: usize = 64 * MIB;

/// One test after the other.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// How much memory grew at most since this was made.
struct Growth(usize);

impl Growth {
    fn begin() -> Self {
        MEMORY.reset_peak_usage();
        Self(MEMORY.current_usage())
    }

    fn bytes(&self) -> usize {
        MEMORY.peak_usage().saturating_sub(self.0)
    }

    #[track_caller]
    fn assert_at_most(&self, bytes: usize, what: &str) {
        let grown = self.bytes();
        assert!(grown <= bytes, "{} MiB, at most {} MiB: {what}", grown / MIB, bytes / MIB);
    }
}

/// Where a field lies: the fields from the request down to the message that has it, and itself.
type Place = Vec<FieldDescriptor>;

/// Every field of a request, at every place.
fn places(message: &MessageDescriptor, above: &Place, found: &mut Vec<Place>) {
    for field in message.fields() {
        let mut place = above.clone();
        place.push(field.clone());
        if let Kind::Message(inner) = field.kind()
            && above.len() < 8
        {
            places(&inner, &place, found);
        }
        found.push(place);
    }
}

fn varint(mut value: usize, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    into.push(u8::try_from(value).unwrap());
}

/// A field with content that has a length.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 16);
    varint((number << 3 | 2) as usize, &mut bytes);
    varint(content.len(), &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// What to fill a field with so that little on the wire is much in memory.
fn entries(place: &FieldDescriptor) -> Vec<Vec<u8>> {
    match place.kind() {
        Kind::Message(inner) if place.is_map() => {
            // Keys that are all different, with texts that are nearly empty.
            let _ = inner;
            let entry = |at: u32| {
                field(place.number(), &[field(1, &at.to_be_bytes()[1..]), field(2, b"")].concat())
            };
            vec![(0..MESSAGE_BYTES as u32 / 11).flat_map(|at| entry(at & 0x7f7f7f)).collect()]
        }
        Kind::Message(_) | Kind::String | Kind::Bytes => vec![field(place.number(), b"")],
        // One number each, and all in one.
        _ => vec![
            vec![u8::try_from(place.number() << 3 & 0x7f).unwrap_or(8), 1],
            field(place.number(), &vec![1; MESSAGE_BYTES - 64]),
        ],
    }
}

/// The message with this field as often as fits.
fn worst(place: &Place, entry: &[u8]) -> Vec<u8> {
    let (_, above) = place.split_last().unwrap();
    let overhead = above.len() * 6;
    let count = ((MESSAGE_BYTES - overhead) / entry.len()).max(1);
    let inside = entry.repeat(count);
    above.iter().rev().fold(inside, |inside, parent| field(parent.number(), &inside))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_takes_more_than_a_connection_may() {
    let _alone = alone().await;
    let server = TestServer::start().await;
    let own = server.own_token();
    let methods: Vec<MethodDescriptor> = gofer_proto::json::descriptor_pool()
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect();
    let (mut seen, mut seen_fields) = (HashSet::new(), HashSet::new());
    let mut tried = 0;

    for method in methods {
        if !seen.insert(method.input().full_name().to_owned()) {
            continue;
        }

        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut found = Vec::new();
        places(&method.input(), &Vec::new(), &mut found);

        for place in worth_trying(&found, &mut seen_fields) {
            for entry in entries(place.last().unwrap()) {
                let message = worst(place, &entry);
                assert!(message.len() <= MESSAGE_BYTES, "{} bytes", message.len());
                let growth = Growth::begin();
                let answer = raw::call(&server.channel(), &path, own.as_deref(), message).await;
                let name = place.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".");
                growth.assert_at_most(CONNECTION_BYTES, &format!("{path} {name}: {answer:?}"));

                let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
                assert!(!matches!(code, Code::Internal | Code::Unknown), "{path} {name}: {code:?}");
                tried += 1;
            }
        }
    }

    assert!(tried > 60, "{tried} messages");
}

/// Lists and maps, each where it is first found; of a request that has none, its first field again
/// and again. Numbers that replace each other are nothing.
fn worth_trying<'a>(found: &'a [Place], seen: &mut HashSet<String>) -> Vec<&'a Place> {
    let in_a_map = |place: &Place| place.iter().rev().skip(1).any(FieldDescriptor::is_map);
    let grows = |place: &Place| place.last().is_some_and(|field| field.is_list() || field.is_map());
    let mut wanted: Vec<&Place> =
        found.iter().filter(|place| !in_a_map(place) && grows(place)).collect();
    wanted.retain(|place| seen.insert(place[place.len() - 1].full_name().to_owned()));
    if wanted.is_empty() {
        wanted.extend(found.first());
    }
    wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_of_messages_take_no_more_than_a_connection_may() {
    let _alone = alone().await;
    let server = TestServer::start_with(|config| config.server.auth = AuthMode::On).await;
    let token = server.bootstrap().await.secret;
    let addr = server.server().addr();
    let most = bytes::Bytes::from(vec![0x1a; MESSAGE_BYTES - 1]);

    for (path, token) in [
        ("/grpc.health.v1.Health/Check", None),
        ("/gofer.v1.PipelineService/RegisterPipeline", None),
        ("/gofer.v1.PipelineService/RegisterPipeline", Some(token.as_str())),
        ("/gofer.v1.ObjectService/PutObject", Some(token.as_str())),
    ] {
        let growth = Growth::begin();
        let mut connection = Http2::connect(addr).await;
        let mut calls = Vec::new();

        for _ in 0..250 {
            // Without a token the server soon reads no more of the connection.
            let begun =
                tokio::time::timeout(Duration::from_secs(2), connection.begin(path, token)).await;
            let Ok(mut call) = begun else { break };
            call.send(MESSAGE_BYTES, most.clone());
            calls.push(call);
        }

        // What is going to arrive has arrived, or was refused.
        let outcomes = futures::future::join_all(calls.into_iter().map(|call| async {
            tokio::time::timeout(Duration::from_secs(2), call.head()).await.is_ok()
        }));

        outcomes.await;
        growth.assert_at_most(CONNECTION_BYTES, path);
        let answer = server.anybody().tokens().who_am_i(v1::WhoAmIRequest {}).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_take_no_more_than_a_connection_may_and_end() {
    let _alone = alone().await;
    let server =
        TestServer::start_with(|config| config.limits.idle_timeout = Duration::from_secs(3)).await;
    let clients = server.anybody();
    let own = server.own_token();
    clients.register(harness::pipeline("ci", vec![harness::shell("t", "true")])).await;

    let header = v1::PutObjectHeader {
        namespace: "default".into(),
        pipeline: "ci".into(),
        key: "large".into(),
        ..v1::PutObjectHeader::default()
    };

    let part = |part| v1::PutObjectRequest { part: Some(part) };
    let chunk = bytes::Bytes::from(vec![7; 256 * 1024]);
    let chunks = (0..256).map(|_| part(v1::put_object_request::Part::Chunk(chunk.clone())));
    let parts: Vec<_> =
        std::iter::once(part(v1::put_object_request::Part::Header(header))).chain(chunks).collect();
    clients.objects().put_object(futures::stream::iter(parts)).await.unwrap();

    let request = v1::GetObjectRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        key: "large".into(),
        ..v1::GetObjectRequest::default()
    };

    let message = prost::Message::encode_to_vec(&request);
    let growth = Growth::begin();
    let mut connection = Http2::connect_with_window(server.server().addr(), 0).await;
    let mut calls = Vec::new();

    for _ in 0..250 {
        let mut call = connection.begin("/gofer.v1.ObjectService/GetObject", own.as_deref()).await;
        call.send(message.len(), message.clone());
        call.body.send_data(bytes::Bytes::new(), true).unwrap();
        calls.push(call.head().await.unwrap().into_body());
    }

    // Nobody opens a window: each is reset once it has stood still for long enough.
    let begin = Instant::now();
    for mut body in calls {
        let ended = tokio::time::timeout(harness::SOON, body.data()).await.expect("an end");
        assert!(matches!(ended, Some(Err(_))), "{ended:?} after {:?}", begin.elapsed());
    }

    growth.assert_at_most(CONNECTION_BYTES, "250 readers that stopped");

    // Somebody else reads all of it meanwhile and after.
    let mut stream = clients.objects().get_object(request).await.unwrap().into_inner();
    let mut read = 0;
    while let Some(answer) = stream.message().await.unwrap() {
        if let Some(v1::get_object_response::Part::Chunk(chunk)) = answer.part {
            read += chunk.len();
        }
    }

    assert_eq!(read, 64 * MIB);
}

/// As many as the files of this process allow, both ends of each being here; up to 5,000.
fn how_many() -> usize {
    let files = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = files.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: usize =
        line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok()).unwrap_or(1 << 20);
    5_000.min(limit.saturating_sub(500) / 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_connections_hold_nobody_up() {
    let _alone = alone().await;
    let server = TestServer::start_with(|config| {
        config.server.auth = AuthMode::On;
        config.limits.idle_timeout = Duration::from_secs(5);
    })
    .await;
    let token = server.bootstrap().await.secret;
    let addr = server.server().addr();
    let growth = Growth::begin();

    let begins: [&[u8]; 4] = [
        b"",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"POST /gofer.v1.RunService/GetRun HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc-web\r\n\
          Content-Length: 4000000\r\n\r\nxxxx",
    ];
    let mut took = Vec::new();
    let mut connections = Vec::new();

    for at in 0..how_many() {
        let mut connection = TcpStream::connect(addr).await.unwrap();
        // One that was closed to make room says so, and is no less of a connection.
        let _ = connection.write_all(begins[at % begins.len()]).await;
        connections.push(connection);

        if at % 500 == 0 {
            let begin = Instant::now();
            let mut newcomer = Http2::connect(addr).await;
            let mut call = newcomer.begin("/gofer.v1.TokenService/WhoAmI", Some(&token)).await;
            call.body.send_data(vec![0; 5].into(), true).unwrap();
            assert_eq!(call.status().await.code(), Code::Ok);
            took.push(begin.elapsed());
        }
    }

    let slowest = took.iter().max().copied().unwrap();
    assert!(
        slowest < Duration::from_secs(2),
        "a call took {slowest:?} beside {} connections",
        connections.len()
    );
    growth.assert_at_most(512 * MIB, "thousands of connections");

    // None of them has asked anything: all are closed, by the server.
    eventually("they are closed", || async {
        let open = connections.iter().filter(|connection| !is_closed(connection)).count();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
}

fn is_closed(connection: &TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match connection.try_read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}
