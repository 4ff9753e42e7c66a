//! A PostgreSQL database of its own for one test.

use std::sync::atomic::{AtomicU64, Ordering};

use gofer_conformance::skip;
use tokio_postgres::{Client, NoTls};

/// Dropped when this is.
pub(crate) struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// On the server that `GOFER_TEST_POSTGRES_URL` names; without one, says that `test` is
    /// skipped.
    pub(crate) async fn create(test: &str) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Ok(server) = std::env::var("GOFER_TEST_POSTGRES_URL") else {
            skip("postgres", test, "GOFER_TEST_POSTGRES_URL is not set");
            return None;
        };
        let name =
            format!("gofer_api_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        execute(&server, &format!("CREATE DATABASE {name}")).await;
        Some(Self { server, name })
    }

    /// The server's address with this database's name.
    pub(crate) fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').expect("a URL ends in the database's name");
        format!("{server}/{}", self.name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, statement) =
            (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        // A drop cannot wait inside a runtime; a thread with its own can, and is waited for.
        let work = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(&server, &statement));
        };
        let _ =
            std::thread::Builder::new().name("drop-database".into()).spawn(work).unwrap().join();
    }
}

async fn execute(server: &str, statement: &str) {
    let (client, connection): (Client, _) = tokio_postgres::connect(server, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}
