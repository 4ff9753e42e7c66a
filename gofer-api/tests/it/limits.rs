//! What callers may cost: requests that do not end, bodies of callers without a right, connections
//! that say nothing.

use std::net::SocketAddr;
use std::time::Duration;

use gofer_api::config::AuthMode;
use gofer_proto::v1;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::{SOON, TestServer, assert_refused, eventually, pipeline, shell};
use crate::http2::Http2;
use crate::raw;

const MIB: usize = 1024 * 1024;
/// How a request begins whose first field is a text or a message of 128 bytes.
const BEGINNING: &[u8] = b"\x0a\x80\x01\x0a\x03abc";

/// A server that asks for tokens, and a management token.
async fn guarded() -> (TestServer, String) {
    let server = TestServer::start_with(|config| config.server.auth = AuthMode::On).await;
    let token = server.bootstrap().await.secret;
    (server, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_is_ended_in_time() {
    let server = TestServer::start_with(|config| {
        config.limits.call_timeout = Duration::from_secs(1);
        config.limits.idle_timeout = Duration::from_secs(1);
    })
    .await;
    let own = server.own_token();
    let own = own.as_deref();
    let mut connection = Http2::connect(server.server().addr()).await;

    // Nothing, half a prefix, half a message, and a message without the end of the call.
    let path = "/gofer.v1.NamespaceService/GetNamespace";
    let nothing = connection.begin(path, own).await;
    let mut prefix = connection.begin(path, own).await;
    prefix.body.send_data(vec![0, 0].into(), false).unwrap();

    let mut half = connection.begin(path, own).await;
    half.send(MIB, BEGINNING);
    let mut no_end = connection.begin(path, own).await;
    let message = v1::GetNamespaceRequest { id: "default".into() }.encode_to_vec();
    no_end.send(message.len(), message);

    for call in [nothing, prefix, half, no_end] {
        call.assert_refused(Code::DeadlineExceeded, "REQUEST_INCOMPLETE").await;
    }

    // One message is asked, many are answered.
    let mut half = connection.begin("/gofer.v1.ObjectService/GetObject", own).await;
    half.send(1000, BEGINNING);
    half.assert_refused(Code::DeadlineExceeded, "REQUEST_INCOMPLETE").await;

    // Many are asked: each has its time.
    for path in ["/gofer.v1.ObjectService/PutObject", "/gofer.v1.TaskRunService/Exec"] {
        let mut half = connection.begin(path, own).await;
        half.send(1000, BEGINNING);
        let status = tokio::time::timeout(SOON, half.status()).await.expect("an end");
        assert!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{path}: {status:?}"
        );
    }

    // Reflection takes an error of its caller for an end.
    let mut half =
        connection.begin("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", own).await;
    half.send(1000, BEGINNING);
    let status = tokio::time::timeout(SOON, half.status()).await.expect("an end");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Ok), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_may_not_do_is_refused_without_its_body() {
    let (server, management) = guarded().await;
    let kind = v1::TokenKind::Client.into();
    let request =
        v1::CreateTokenRequest { kind, namespaces: vec!["default".into()], ..Default::default() };
    let client = server
        .with_token(&management)
        .tokens()
        .create_token(request)
        .await
        .unwrap()
        .into_inner()
        .secret;
    let file = server.dir().join("token");
    let line = format!(
        "printf %s \"$GOFER_API_TOKEN\" > {0}.new; mv {0}.new {0}; exec sleep 600",
        file.display()
    );
    let manager = server.with_token(&management);

    manager.register(pipeline("ci", vec![shell("t", &line)])).await;
    manager.start("ci").await;
    let run =
        eventually("the task has written its token", || async { std::fs::read_to_string(&file) })
            .await;

    let mut connection = Http2::connect(server.server().addr()).await;
    let create = "/gofer.v1.NamespaceService/CreateNamespace";
    let register = "/gofer.v1.PipelineService/RegisterPipeline";
    let unauthenticated =
        [(create, None, "TOKEN_MISSING"), (create, Some("gofer_t_x"), "TOKEN_UNKNOWN")];

    for (path, token, reason) in unauthenticated {
        connection.begin(path, token).await.assert_refused(Code::Unauthenticated, reason).await;
    }

    for (path, token) in [(create, &client), (create, &run), (register, &run)] {
        connection
            .begin(path, Some(token))
            .await
            .assert_refused(Code::PermissionDenied, "FORBIDDEN")
            .await;
    }

    manager.kill("ci", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_token_are_small_and_few() {
    let (server, _token) = guarded().await;
    let mut connection = Http2::connect(server.server().addr()).await;
    let paths = [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/gofer.v1.TokenService/BootstrapToken",
    ];

    for path in paths {
        let mut call = connection.begin(path, None).await;
        call.send(4 * MIB, vec![0; 100]);
        call.assert_refused(Code::ResourceExhausted, "REQUEST_TOO_LARGE").await;
    }

    // Reflection takes an error of its caller for an end.
    let mut call =
        connection.begin("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None).await;
    call.send(4 * MIB, vec![0; 100]);
    tokio::time::timeout(SOON, call.status()).await.expect("an end");

    let mut calls = Vec::new();
    for _ in 0..16 {
        let mut call = connection.begin("/grpc.health.v1.Health/Watch", None).await;
        call.body.send_data(vec![0; 5].into(), true).unwrap();
        calls.push(call.head().await.unwrap());
    }

    connection
        .begin(paths[0], None)
        .await
        .assert_refused(Code::ResourceExhausted, "TOO_MANY_CALLS")
        .await;
    drop(calls);
    eventually("their places are free", || async {
        let mut connection = connection.clone();
        let mut call = connection.begin(paths[0], None).await;
        call.body.send_data(vec![0; 5].into(), true).unwrap();
        let status = call.status().await;
        if status.code() == Code::Ok { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_grpc_is_refused_over_http2_too() {
    let server = TestServer::start().await;
    let mut connection = Http2::connect(server.server().addr()).await;
    for content_type in
        ["text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "application/json"]
    {
        let call = connection
            .begin_as(content_type, "/gofer.v1.NamespaceService/ListNamespaces", None)
            .await;
        let head = call.head().await.unwrap();
        assert_eq!(head.status(), 415, "{content_type}: {head:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_of_anything_are_refused_by_name() {
    let server = TestServer::start().await;
    let own = server.own_token();
    let own = own.as_deref();
    let register = "/gofer.v1.PipelineService/RegisterPipeline";
    let in_spec = |spec: Vec<u8>| {
        let mut message = Vec::new();
        prost::encoding::encode_key(3, prost::encoding::WireType::LengthDelimited, &mut message);
        prost::encoding::encode_varint(spec.len() as u64, &mut message);
        message.extend(spec);
        message
    };

    let field = gofer_proto::json::descriptor_pool()
        .get_message_by_name("gofer.v1.RegisterPipelineRequest")
        .and_then(|message| message.get_field_by_name("spec"))
        .unwrap()
        .number();
    let mut tasks = in_spec([0x1a, 0x00].repeat(10_001));

    tasks[0] = u8::try_from(field << 3 | 2).unwrap();
    let refused = raw::call(&server.channel(), register, own, tasks).await;
    let (code, reason, text) = crate::harness::refusal(refused);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"), "{text}");
    assert!(
        text.contains("at most 10000 entries of `PipelineSpec.tasks`; this one has 10001"),
        "{text}"
    );

    // The same field again is the same message: what it has is added up.
    let mut half = in_spec([0x1a, 0x00].repeat(6_000));
    half[0] = u8::try_from(field << 3 | 2).unwrap();
    let refused = raw::call(&server.channel(), register, own, half.repeat(2)).await;
    assert_refused(refused, Code::ResourceExhausted, "REQUEST_TOO_LARGE");

    let states = v1::ListRunsRequest {
        namespace: "default".into(),
        states: vec![1; 200_001],
        ..Default::default()
    };

    let refused = server.anybody().runs().list_runs(states).await;
    let (code, _, text) = crate::harness::refusal(refused);
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    assert!(text.contains("`ListRunsRequest.states`") && text.contains("at most 200000"), "{text}");

    let tasks = (0..10_000).map(|at| shell(&format!("t{at}"), "true")).collect();
    server.anybody().register(pipeline("large", tasks)).await;
}

/// Bytes after which a caller says nothing more.
async fn silent(addr: SocketAddr, begin: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(addr).await.unwrap();
    connection.write_all(begin).await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_nothing_is_closed() {
    let server = TestServer::start().await;
    let addr = server.server().addr();
    let begins: [&[u8]; 4] = [
        b"",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"POST /gofer.v1.RunService/GetRun HTTP/1.1\r\nHost: localhost\r\n",
    ];
    let mut connections = Vec::new();

    for begin in begins {
        connections.push(silent(addr, begin).await);
    }

    for (connection, begin) in connections.iter_mut().zip(begins) {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, connection.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after {SOON:?}: {:?}", String::from_utf8_lossy(begin));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_token_make_room() {
    let server = TestServer::start_with(|config| {
        config.limits.connections = Some(20);
        config.limits.connections_per_address = Some(20);
    })
    .await;
    let addr = server.server().addr();
    let own = server.own_token();
    let own = own.as_deref();

    // One that has called stays, however many come that do not.
    let client = server.anybody();
    client.namespaces().list_namespaces(v1::ListNamespacesRequest::default()).await.unwrap();
    let mut guest = Http2::connect(addr).await;
    let mut call = guest.begin("/gofer.v1.NamespaceService/ListNamespaces", own).await;
    call.body.send_data(vec![0; 5].into(), true).unwrap();
    assert_eq!(call.status().await.code(), Code::Ok);

    let mut strangers = Vec::new();
    for _ in 0..100 {
        strangers.push(silent(addr, b"").await);
    }

    let mut call = guest.begin("/gofer.v1.NamespaceService/ListNamespaces", own).await;
    call.body.send_data(vec![0; 5].into(), true).unwrap();
    assert_eq!(call.status().await.code(), Code::Ok);
    let mut newcomer = Http2::connect(addr).await;
    let mut call = newcomer.begin("/gofer.v1.NamespaceService/ListNamespaces", own).await;
    call.body.send_data(vec![0; 5].into(), true).unwrap();
    assert_eq!(call.status().await.code(), Code::Ok);

    let mut rest = Vec::new();
    let oldest =
        tokio::time::timeout(Duration::from_secs(5), strangers[0].read_to_end(&mut rest)).await;
    assert!(oldest.is_ok(), "the oldest stranger is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_takes_no_new_call_and_ends_none() {
    let server =
        TestServer::start_with(|config| config.limits.connection_age = Duration::from_secs(10))
            .await;
    let addr = server.server().addr();
    let own = server.own_token();
    let own = own.as_deref();
    let mut connection = Http2::connect(addr).await;
    let mut follow = connection.begin("/gofer.v1.EventService/FollowEvents", own).await;

    follow.body.send_data(vec![0; 5].into(), true).unwrap();
    let mut events = follow.head().await.unwrap().into_body();

    // The answer to a new stream is that the connection goes away.
    eventually("it takes no new call", || {
        let mut connection = connection.clone();
        async move {
            match connection.try_begin("/gofer.v1.NamespaceService/ListNamespaces", own).await {
                Ok(()) => Err("it took one"),
                Err(_) => Ok(()),
            }
        }
    })
    .await;
    server
        .anybody()
        .namespaces()
        .create_namespace(v1::CreateNamespaceRequest { id: "new".into(), ..Default::default() })
        .await
        .unwrap();
    assert!(events.data().await.unwrap().unwrap().len() > 5, "the stream that was open goes on");
}
