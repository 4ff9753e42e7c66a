//! HTTP/2 as a program that means no good speaks it: heads without bodies, halves of messages,
//! windows that stay shut.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// One connection.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: SendRequest<Bytes>,
}

/// A call that has been begun.
pub(crate) struct Begun {
    pub(crate) body: SendStream<Bytes>,
    answer: ResponseFuture,
}

impl Http2 {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with_window(addr, 1 << 20).await
    }

    /// With so many bytes of each answer that may come before they are asked for.
    pub(crate) async fn connect_with_window(addr: SocketAddr, window_bytes: u32) -> Self {
        let socket = TcpStream::connect(addr).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window_bytes).initial_max_send_streams(1000).enable_push(false);
        let (requests, connection) = builder.handshake(socket).await.unwrap();
        // It answers pings for as long as the server keeps it.
        tokio::spawn(connection);
        Self { requests }
    }

    /// Sends the head of a gRPC call.
    pub(crate) async fn begin(&mut self, path: &str, token: Option<&str>) -> Begun {
        self.begin_as("application/grpc", path, token).await
    }

    /// The same with another content type.
    pub(crate) async fn begin_as(
        &mut self,
        content_type: &str,
        path: &str,
        token: Option<&str>,
    ) -> Begun {
        self.requests = self.requests.clone().ready().await.unwrap();
        let mut request =
            Request::post(format!("http://localhost{path}")).header("content-type", content_type);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (answer, body) = self.requests.send_request(request.body(()).unwrap(), false).unwrap();
        Begun { body, answer }
    }

    /// A whole call with an empty message, if the connection still takes one.
    pub(crate) async fn try_begin(
        &mut self,
        path: &str,
        token: Option<&str>,
    ) -> Result<(), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (answer, mut body) = requests.send_request(request.body(()).unwrap(), false)?;
        body.send_data(vec![0; 5].into(), true)?;
        answer.await.map(drop)
    }
}

impl Begun {
    /// Sends a message's prefix for so many bytes, and these bytes.
    pub(crate) fn send(&mut self, declared: usize, bytes: impl Into<Bytes>) {
        let mut prefix = vec![0];
        prefix.extend(u32::try_from(declared).unwrap().to_be_bytes());
        self.body.send_data(prefix.into(), false).unwrap();
        self.body.send_data(bytes.into(), false).unwrap();
    }

    /// The answer's head.
    pub(crate) async fn head(self) -> Result<Response<RecvStream>, h2::Error> {
        // The caller's side stays open until then.
        let _body = self.body;
        self.answer.await
    }

    /// How the call ended: what its head or its trailers say.
    pub(crate) async fn status(self) -> Status {
        let _body = self.body;
        let (head, mut body) = self.answer.await.unwrap().into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return status;
        }
        while let Some(bytes) = body.data().await {
            body.flow_control().release_capacity(bytes.unwrap().len()).unwrap();
        }
        let trailers: HeaderMap = body.trailers().await.unwrap().unwrap_or_default();
        Status::from_header_map(&trailers)
            .unwrap_or_else(|| panic!("no status: {head:?} {trailers:?}"))
    }

    /// Asserts that the call was refused like this while its body was still open.
    pub(crate) async fn assert_refused(self, code: Code, reason: &str) {
        let status =
            tokio::time::timeout(crate::harness::SOON, self.status()).await.expect("an answer");
        let found = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        assert_eq!((status.code(), found.as_str()), (code, reason), "{status:?}");
    }
}
