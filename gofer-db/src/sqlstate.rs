//! Puts the SQLSTATE of each error before its message: `SQLSTATE 40P01: deadlock detected`.
//!
//! PostgreSQL writes messages in the language of `lc_messages`, and only the code says what
//! happened. diesel-async hands on the message and drops the code, and a plain role may not change
//! the language. So the code is written into the message while the server's answer is read, below
//! the driver and above TLS:
//!
//! ```text
//! diesel-async <- tokio-postgres <- Coded: 'E' messages get their code <- TLS or nothing <- socket
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// What stands between the code and the message.
const END: &str = ": ";
const BEGINNING: &str = "SQLSTATE ";
/// Five letters and digits.
const CODE_BYTES: usize = 5;

/// A message's type, and its length, which counts itself.
const HEADER_BYTES: usize = 5;
const ERROR_RESPONSE: u8 = b'E';
/// Longer errors pass as they are: this much of one is kept in memory.
const MAX_ERROR_BYTES: usize = 1024 * 1024;
/// As much is read from the connection at once.
const READ_BYTES: usize = 16 * 1024;

/// The code that was put before a message.
pub(crate) fn of(message: &str) -> Option<&str> {
    let rest = message.strip_prefix(BEGINNING)?;
    let code = rest.get(..CODE_BYTES)?;
    rest[CODE_BYTES..].starts_with(END).then_some(code)
}

/// A connection whose errors carry their code.
#[derive(Debug)]
pub(crate) struct Coded<S> {
    stream: S,
    messages: Messages,
    /// Read from the connection, and not yet from here.
    ready: BytesMut,
}

impl<S> Coded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, messages: Messages::default(), ready: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() && into.remaining() > 0 {
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                this.messages.end(&mut this.ready);
                break;
            }
            this.messages.pass(read.filled(), &mut this.ready);
        }

        let count = this.ready.len().min(into.remaining());
        into.put_slice(&this.ready[..count]);
        this.ready.advance(count);

        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Coded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// Where in the server's messages the connection is.
#[derive(Debug, Default)]
struct Messages {
    /// Of the message that has begun, as far as it has arrived; all of an error.
    held: Vec<u8>,
    /// What is still to come of the message.
    left: usize,
}

impl Messages {
    /// Takes bytes of the connection, and gives those that can be read by now.
    fn pass(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            let in_header = self.left == 0;
            let wanted = if in_header { HEADER_BYTES - self.held.len() } else { self.left };
            let (some, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;

            if in_header {
                self.held.extend_from_slice(some);
                if self.held.len() < HEADER_BYTES {
                    return;
                }
                self.left = body_bytes(&self.held);
            } else {
                self.left -= some.len();
                if self.held.is_empty() {
                    out.extend_from_slice(some);
                } else {
                    self.held.extend_from_slice(some);
                }
            }

            let is_error =
                self.held.first() == Some(&ERROR_RESPONSE) && self.left <= MAX_ERROR_BYTES;
            if self.left == 0 && is_error {
                out.extend_from_slice(&coded(&self.held).unwrap_or_else(|| self.held.clone()));
                self.held.clear();
            } else if !is_error {
                out.extend_from_slice(&self.held);
                self.held.clear();
            }
        }
    }

    /// The connection has ended: whatever is held back is all there is.
    fn end(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.held);
        self.held.clear();
    }
}

fn body_bytes(header: &[u8]) -> usize {
    let length = [header[1], header[2], header[3], header[4]];
    (u32::from_be_bytes(length) as usize).saturating_sub(length.len())
}

/// The error with its code before its message; `None` if it has no such fields.
fn coded(error: &[u8]) -> Option<Vec<u8>> {
    let (mut code, mut message_at) = (None, None);
    let mut at = HEADER_BYTES;

    // Fields are a letter and a text that ends in a zero; a zero ends them all.
    while let Some(field) = error.get(at).filter(|&&field| field != 0) {
        let length = error[at + 1..].iter().position(|&byte| byte == 0)?;
        match field {
            b'C' => {
                code = error.get(at + 1..at + 1 + length).filter(|code| code.len() == CODE_BYTES)
            }
            b'M' => message_at = Some(at + 1),
            _ => {}
        }

        at += 1 + length + 1;
    }

    let (before, after) = error.split_at(message_at?);
    let mut coded = [before, BEGINNING.as_bytes(), code?, END.as_bytes(), after].concat();
    let length = u32::try_from(coded.len() - 1).ok()?;
    coded[1..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());

    Some(coded)
}

/// Makes connections, with TLS or without, whose errors carry their code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WithCodes<T>(pub(crate) T);

impl<S, T> MakeTlsConnect<S> for WithCodes<T>
where
    T: MakeTlsConnect<S>,
    T::TlsConnect: TlsConnect<S, Stream = T::Stream>,
    <T::TlsConnect as TlsConnect<S>>::Future: Send + 'static,
    <T::TlsConnect as TlsConnect<S>>::Error: 'static,
{
    type Stream = Coded<T::Stream>;
    type TlsConnect = WithCodes<T::TlsConnect>;
    type Error = T::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        self.0.make_tls_connect(domain).map(WithCodes)
    }
}

impl<S, T> TlsConnect<S> for WithCodes<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
    T::Error: 'static,
{
    type Stream = Coded<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, T::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let connecting = self.0.connect(stream);
        Box::pin(async move { connecting.await.map(Coded::new) })
    }
}

/// Instead of TLS: the connection as it is. For the driver it is TLS that needs no asking
/// (`SslNegotiation::Direct`), since only there it lets somebody see what passes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

/// A connection as it is.
#[derive(Debug)]
pub(crate) struct PlainStream<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> MakeTlsConnect<S> for Plain {
    type Stream = PlainStream<S>;
    type TlsConnect = Self;
    type Error = std::convert::Infallible;

    fn make_tls_connect(&mut self, _: &str) -> Result<Self, Self::Error> {
        Ok(Self)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsConnect<S> for Plain {
    type Stream = PlainStream<S>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<PlainStream<S>, Self::Error>>;

    fn connect(self, stream: S) -> Self::Future {
        std::future::ready(Ok(PlainStream(stream)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlainStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for PlainStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn the_code_comes_before_the_message_however_the_bytes_arrive() {
        let german =
            message(b'E', "SFEHLER\0VERROR\0C40P01\0MVerklemmung entdeckt\0Fx.c\0\0".as_bytes());
        let with_code = message(
            b'E',
            "SFEHLER\0VERROR\0C40P01\0MSQLSTATE 40P01: Verklemmung entdeckt\0Fx.c\0\0".as_bytes(),
        );
        let row = message(b'D', b"E\0\0\0\x08ab");
        let (empty, odd) = (message(b'I', b""), message(b'E', b"no fields"));
        let sent = [&row[..], &german, &empty, &odd, &german, &row].concat();
        let expected = [&row[..], &with_code, &empty, &odd, &with_code, &row].concat();

        for piece in [1, 2, 3, 5, 7, sent.len()] {
            let (mut messages, mut out) = (Messages::default(), BytesMut::new());
            for bytes in sent.chunks(piece) {
                messages.pass(bytes, &mut out);
            }
            assert!(out == expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_too_long_or_ends_early_passes_as_it_is() {
        let long = message(b'E', &[b"C40P01\0M", &[b'x'; MAX_ERROR_BYTES][..], b"\0\0"].concat());
        let (mut messages, mut out) = (Messages::default(), BytesMut::new());
        messages.pass(&long, &mut out);
        assert!(out == long);
        let half = &message(b'E', b"C40P01\0Mx\0\0")[..9];
        let (mut messages, mut out) = (Messages::default(), BytesMut::new());
        messages.pass(half, &mut out);
        assert!(out.is_empty());
        messages.end(&mut out);
        assert!(out == half);
    }

    #[test]
    fn a_code_is_read_again() {
        assert_eq!(of("SQLSTATE 40P01: Verklemmung entdeckt"), Some("40P01"));
        for other in ["deadlock detected", "SQLSTATE 40P01", "SQLSTATE 4: x", "SQLSTATE äää: x"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
