//! Bytes of a connection on which nobody has shown a token. They are read no faster than somebody
//! without a token has use for, so that frames without end cost nothing: what is not read stays in
//! the sender's machine.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connection::Connection;

/// What may come at once: the largest headers and a little more.
const ANONYMOUS_BURST_BYTES: u64 = 64 * 1024;
/// And then per second: health checks need less than a hundredth.
const ANONYMOUS_BYTES_PER_SECOND: u64 = 4 * 1024;

/// A connection's bytes, metered until somebody has shown a token.
pub(super) struct Metered<S> {
    inner: S,
    connection: Arc<Connection>,
    /// Bytes that were read and are not allowed for yet.
    debt_bytes: u64,
    counted_at: Instant,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, connection: Arc<Connection>) -> Self {
        Self { inner, connection, debt_bytes: 0, counted_at: Instant::now(), pause: None }
    }

    /// When the next byte may be read, if that is not now.
    fn wait_until(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let paid = u64::try_from((now - self.counted_at).as_millis())
            .unwrap_or(u64::MAX)
            .saturating_mul(ANONYMOUS_BYTES_PER_SECOND)
            / 1000;
        if paid > 0 {
            self.debt_bytes = self.debt_bytes.saturating_sub(paid);
            self.counted_at = now;
        }
        let over = self.debt_bytes.checked_sub(ANONYMOUS_BURST_BYTES)?;
        Some(now + Duration::from_millis(over * 1000 / ANONYMOUS_BYTES_PER_SECOND + 1))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if this.connection.is_authenticated() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }

        if let Some(due) = this.wait_until() {
            // Woken when it is time, or when somebody shows a token: looked at again after the
            // waker is known.
            this.connection.wake_when_authenticated(context.waker());
            if !this.connection.is_authenticated() {
                let pause =
                    this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
                ready!(pause.as_mut().poll(context));
                this.pause = None;
            }
        }

        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        this.debt_bytes += (buffer.filled().len() - before) as u64;

        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
