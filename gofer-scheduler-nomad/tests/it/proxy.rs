//! A TCP proxy before a real agent, which cuts its connections when told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A running proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<u64>,
    refusals: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Proxy {
    /// Before the agent at `http://host:port`.
    pub(crate) async fn to(agent: &str) -> Self {
        let target = agent
            .strip_prefix("http://")
            .expect("an agent without TLS")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let cut = watch::Sender::new(0);
        let refusals = Arc::new(AtomicUsize::new(0));
        let task =
            tokio::spawn(accept(listener, target, cut.clone(), refusals.clone())).abort_handle();
        Self { address, cut, refusals, task }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes every connection.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|times| *times += 1);
    }

    /// Closes every connection, and the next `count` as soon as they come.
    pub(crate) fn refuse(&self, count: usize) {
        self.refusals.store(count, Ordering::SeqCst);
        self.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    cut: watch::Sender<u64>,
    refusals: Arc<AtomicUsize>,
) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        let fewer = |left: usize| left.checked_sub(1);
        if refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            continue;
        }

        let (target, mut cut) = (target.clone(), cut.subscribe());
        tokio::spawn(async move {
            let Ok(mut agent) = TcpStream::connect(target).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut agent) => {}
                _ = cut.changed() => {}
            }
        });
    }
}
