//! Accepts connections, within limits, and never spins when the machine has none to give.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Stack;
use super::connections::Connections;
use super::serve::{ServedWith, serve};
use super::tls::Certificates;
use crate::config::Limits;
use crate::metrics::ServerMetrics;

/// How long nothing is accepted after the machine refused to give a descriptor or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A condition that lasts is one line of the log per minute.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Takes connections from a listener.
#[derive(Clone)]
pub(crate) struct Acceptor {
    connections: Arc<Connections>,
    with: ServedWith,
    tasks: TaskTracker,
    metrics: ServerMetrics,
}

impl Acceptor {
    /// Connections within these limits, with the certificates if there are any, until `stop`.
    pub(crate) fn new(
        limits: &Limits,
        certificates: Option<Arc<Certificates>>,
        stack: Stack,
        stop: CancellationToken,
        metrics: ServerMetrics,
    ) -> Self {
        Self {
            connections: Connections::new(limits),
            with: ServedWith::new(limits, certificates, stack, stop),
            tasks: TaskTracker::new(),
            metrics,
        }
    }

    /// Accepts until it is stopped, then waits for the end of every connection. Dropped, it cuts
    /// them off.
    pub(crate) async fn run(self, listener: TcpListener) {
        let _cut = self.with.cut.clone().drop_guard();
        let stop = self.with.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.accept(&listener) => {}
        }
        // New callers hear at once that nobody listens.
        drop(listener);
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn accept(&self, listener: &TcpListener) {
        let (mut exhausted, mut full) = (Complaint::default(), Complaint::default());
        loop {
            self.connections.until_few_are_ending().await;
            match listener.accept().await {
                Ok((socket, address)) => match self.connections.admit(address.ip()) {
                    Some(place) => {
                        let (acceptor, open) = (self.clone(), self.metrics.connection());
                        self.tasks.spawn(async move {
                            let _open = open;
                            serve(socket, place.connection.clone(), &acceptor.with).await
                        });
                    }
                    None => full.say(|left_out| {
                        tracing::warn!(
                            %address,
                            left_out,
                            "a connection was refused: all of `limits.connections` or \
                             `connections_per_address` are in use"
                        );
                    }),
                },
                // The caller left before it was accepted.
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    self.connections.close_some();
                    exhausted.say(|left_out| {
                        tracing::error!(
                            %error,
                            left_out,
                            "no connection can be accepted; raise the limit of open files (`ulimit \
                             -n`, `LimitNOFILE=`) or lower `limits.connections`"
                        );
                    });

                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    let errors = [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::INTR,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::PERM,
    ];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// Something that is logged seldom, with how often it happened in between.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
    left_out: u64,
}

impl Complaint {
    fn say(&mut self, line: impl FnOnce(u64)) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL) {
            self.left_out += 1;
            return;
        }
        line(std::mem::take(&mut self.left_out));
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_said_once_a_minute() {
        let mut complaint = Complaint::default();
        let mut said = Vec::new();
        for _ in 0..150 {
            complaint.say(|left_out| said.push(left_out));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [0, 59, 59]);
    }
}
