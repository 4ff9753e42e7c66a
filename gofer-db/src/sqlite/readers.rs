//! Connections that only read. In WAL mode they never wait for the writer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Conn;
use crate::error::DbError;

pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Conn>>>,
    turns: Arc<Semaphore>,
    most: u32,
    path: PathBuf,
    wait: Duration,
}

impl Readers {
    pub(super) fn new(path: PathBuf, most: usize, wait: Duration) -> Self {
        Self {
            idle: Arc::default(),
            turns: Arc::new(Semaphore::new(most)),
            most: u32::try_from(most).unwrap_or(u32::MAX),
            path,
            wait,
        }
    }

    /// Runs `work` to its end on a thread that may block, whether or not the caller stays.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let turn = tokio::time::timeout(self.wait, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|error| DbError::unavailable("every database reader is busy", error))?
            .map_err(|error| DbError::unavailable("the database is closed", error))?;
        let (idle, path, busy) = (Arc::clone(&self.idle), self.path.clone(), self.wait);
        let task = tokio::task::spawn_blocking(move || {
            let known = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match known {
                Some(connection) => connection,
                None => super::connect_reader(&path, busy)?,
            };

            let result = work(&mut connection);
            // A panic in `work` drops the connection instead.
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(turn);

            result
        });

        crate::support::joined(task.await)
    }

    /// Waits for the reads under way, then closes the connections.
    pub(super) async fn close(&self) {
        if let Ok(all) = self.turns.acquire_many(self.most).await {
            self.turns.close();
            drop(all);
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
