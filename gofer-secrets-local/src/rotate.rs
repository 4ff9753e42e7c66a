//! Replacing the key while the store is in use.

use std::sync::Arc;

use gofer_core::object_store::ListPage;
use gofer_core::{BackendError, ErrorKind, SecretPath};
use gofer_db::LocalSecret;

use crate::error::{blocking, damaged, key_missing};
use crate::key::Key;
use crate::key_file;
use crate::key_ring::KeyRing;
use crate::local::{LocalSecretStore, ROWS_PER_PAGE};

/// How often the table is gone through. Here the second pass finds nothing; more are needed only
/// while another process still writes with an older key.
const MAX_PASSES: usize = 10;

impl LocalSecretStore {
    /// Makes a new key, re-encrypts every secret with it, and takes the older keys out of the file.
    /// Returns how many rows were re-encrypted. Reads and puts go on during it.
    ///
    /// Dropped or killed at any point, it leaves a file with every key that a row needs; call it
    /// again to finish.
    ///
    /// # Errors
    /// `Corrupt` when a secret cannot be decrypted, which the message names (delete it or put it
    /// again, then rotate again); `Denied` or `Exhausted` when the key file cannot be written;
    /// `Unavailable` when another process keeps writing with an older key; or the database's. The
    /// older keys stay in the file then.
    pub async fn rotate(&self) -> Result<u64, BackendError> {
        let _rotating = self.rotating.lock().await;

        // From the file, not from memory: an interrupted rotation may have left keys there that
        // rows need.
        let mut keys = self.read_key_file().await?;
        let key = Key::generate()?;
        let newest = key.id().to_owned();
        keys.add_newest(key);
        self.install(keys).await?;

        let rewritten = self.rewrite_all(&newest).await?;

        let mut keys = self.read_key_file().await?;
        if keys.newest().id() != newest {
            let message =
                "another process rotated the keys at the same time; rotate again when it is done";
            return Err(BackendError::new(ErrorKind::Unavailable, message));
        }

        keys.keep_newest();
        self.install(keys).await?;
        Ok(rewritten)
    }

    /// Makes these the keys of the file, then of this process: no row is written with a key that is
    /// not durable.
    async fn install(&self, keys: KeyRing) -> Result<(), BackendError> {
        let key_file = self.key_file.clone();
        let keys = blocking(move || key_file::replace(&key_file, &keys).map(|()| keys)).await?;
        *self.keys.write().await = keys;
        Ok(())
    }

    async fn rewrite_all(&self, newest: &str) -> Result<u64, BackendError> {
        let mut rewritten = 0;
        for _ in 0..MAX_PASSES {
            let mut page = ListPage { after: None, limit: ROWS_PER_PAGE };
            let mut found_any = false;
            loop {
                let rows = self.db.local_secret_list_stale(newest, &page).await?;
                found_any |= !rows.items.is_empty();
                for (path, row) in rows.items {
                    rewritten += u64::from(self.rewrite(&path, &row).await?);
                }

                match rows.next {
                    Some(next) => page.after = Some(next),
                    None => break,
                }
            }

            if !found_any {
                return Ok(rewritten);
            }
        }

        let message = "another gofer process keeps writing secrets with an older key; restart it, \
                       then rotate again";
        Err(BackendError::new(ErrorKind::Unavailable, message))
    }

    /// Whether the row was still what was read; if not, its new value has the new key already, or
    /// the next pass sees it.
    async fn rewrite(&self, path: &SecretPath, row: &LocalSecret) -> Result<bool, BackendError> {
        let keys = Arc::clone(&self.keys).read_owned().await;
        let Some(key) = keys.find(&row.key_id) else {
            return Err(key_missing(path, &row.key_id, &self.key_file, &keys.ids()));
        };
        let value = key.open(path, &row.ciphertext).ok_or_else(|| damaged(path, &row.key_id))?;
        let newest = keys.newest();
        let new =
            LocalSecret { key_id: newest.id().to_owned(), ciphertext: newest.seal(path, &value)? };
        Ok(self.db.local_secret_rewrite(path, row, &new).await?)
    }
}
