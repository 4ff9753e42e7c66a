//! Calls of any method with bytes, for tests that walk the whole contract.

use bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Messages as they are.
#[derive(Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// Calls a method of any kind with one message, and says how it ended: at the first answer, or when
/// it was refused.
pub(crate) async fn call(
    channel: &Channel,
    path: &str,
    token: Option<&str>,
    message: Vec<u8>,
) -> Result<(), Status> {
    let authorization = token.map(|token| ("authorization", format!("Bearer {token}")));
    call_with(channel, path, authorization.as_slice(), message).await
}

/// The same with these headers.
pub(crate) async fn call_with(
    channel: &Channel,
    path: &str,
    headers: &[(&'static str, String)],
    message: Vec<u8>,
) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(futures::stream::iter([message]));
    for (name, value) in headers {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    let path = PathAndQuery::try_from(path.to_owned()).unwrap();
    let mut answers = client.streaming(request, path, RawCodec).await?.into_inner();
    // Endless streams say nothing for a while: that they began is answer enough.
    match tokio::time::timeout(std::time::Duration::from_millis(200), answers.message()).await {
        Ok(Err(status)) => Err(status),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
