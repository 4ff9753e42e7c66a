//! An S3 with one bucket, in memory, that fails where it is told to.

mod answers;
mod requests;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use gofer_conformance::eventually;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use state::{Bucket, Shared};
pub(crate) use state::{Fault, Kind, Seen};

pub(crate) const BUCKET: &str = "gofer-test";
pub(crate) const ACCESS_KEY: &str = "AKFAKE";
pub(crate) const SECRET_KEY: &str = "a-secret-nobody-knows";

/// The server; it ends with the value.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let router = router(&shared);
        let server =
            tokio::spawn(
                async move { axum::serve(listener, router).await.expect("the fake serves") },
            );
        Self { address, shared, server }
    }

    /// The same in TLS, on a listener that the caller made.
    pub(crate) fn serve<L>(address: SocketAddr, listener: L) -> Self
    where
        L: axum::serve::Listener,
        L::Addr: std::fmt::Debug,
    {
        let shared = Arc::new(Shared::default());
        let router = router(&shared);
        let server =
            tokio::spawn(
                async move { axum::serve(listener, router).await.expect("the fake serves") },
            );
        Self { address, shared, server }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` requests of this kind go wrong.
    pub(crate) fn fail(&self, kind: Kind, times: usize, fault: Fault) {
        self.shared.plan(kind, times, fault);
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) {
        self.shared.heal();
    }

    /// Lists go through directories one by one, as SeaweedFS does.
    pub(crate) fn list_as_tree(&self) {
        self.bucket(|bucket| bucket.tree = true);
    }

    /// Conditions are ignored, as old stores do.
    pub(crate) fn ignore_conditions(&self) {
        self.bucket(|bucket| bucket.conditions = false);
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen()
    }

    /// How many requests of this kind were made so far.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.seen().iter().filter(|seen| seen.kind == kind).count()
    }

    /// The keys in the bucket.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.bucket(|bucket| bucket.objects.keys().cloned().collect())
    }

    /// Waits until no upload is open.
    pub(crate) async fn no_upload_is_left(&self) {
        eventually("every upload is completed or aborted", || async {
            let open = self.bucket(|bucket| bucket.uploads.len());
            if open == 0 {
                Ok(())
            } else {
                Err(format!("{open} uploads are open; seen: {:?}", self.seen()))
            }
        })
        .await;
    }

    /// Waits until a request of this kind has arrived.
    pub(crate) async fn has_seen(&self, kind: Kind, times: usize) {
        eventually("a request arrives", || async {
            let seen = self.count(kind);
            if seen >= times {
                Ok(())
            } else {
                Err(format!("{seen} of {kind:?}; seen: {:?}", self.seen()))
            }
        })
        .await;
    }

    fn bucket<T>(&self, look: impl FnOnce(&mut Bucket) -> T) -> T {
        look(&mut self.shared.bucket())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn router(shared: &Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(Arc::clone(shared))
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    requests::handle(&shared, request).await
}
