//! From a stream to a staging file: the next chunk is gathered while the last is being written.

use futures::StreamExt;
use gofer_core::BackendError;
use gofer_core::object_store::ByteStream;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::joined;
use crate::staged::Staged;

/// Bytes per write. Large enough that handing a chunk to a blocking thread (some 20 us) does not
/// show. Two of these are all the memory that a put needs.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Writes the whole stream. After an error the staging file is gone; when this is dropped, it soon
/// will be.
pub(crate) async fn write_all(
    staged: Staged,
    mut body: ByteStream,
) -> Result<Staged, BackendError> {
    let mut writer = Writer::Idle { staged, spare: Vec::new() };
    let mut buffer = Vec::new();
    while let Some(item) = body.next().await {
        let mut bytes = match item {
            Ok(bytes) => bytes,
            Err(error) => {
                writer.discard().await;
                return Err(error);
            }
        };
        while !bytes.is_empty() {
            let space = CHUNK_BYTES - buffer.len();
            buffer.extend_from_slice(&bytes.split_to(space.min(bytes.len())));
            if buffer.len() == CHUNK_BYTES {
                (writer, buffer) = writer.write(buffer).await?;
            }
        }
    }

    let (writer, _) = writer.write(buffer).await?;
    let (staged, _) = writer.settle().await?;
    Ok(staged)
}

/// The staging file and an empty buffer, here or on a blocking thread.
enum Writer {
    Idle { staged: Staged, spare: Vec<u8> },
    Busy(JoinHandle<Result<(Staged, Vec<u8>), BackendError>>),
}

impl Writer {
    /// Waits for the write before, starts this one, and gives back an empty buffer.
    async fn write(self, mut buffer: Vec<u8>) -> Result<(Self, Vec<u8>), BackendError> {
        let (staged, spare) = self.settle().await?;
        let busy = spawn_blocking(move || {
            let staged = staged.write(&buffer)?;
            buffer.clear();
            Ok((staged, buffer))
        });
        Ok((Self::Busy(busy), spare))
    }

    async fn discard(self) {
        // A failed write has discarded the file already.
        if let Ok((staged, _)) = self.settle().await {
            let _ = spawn_blocking(|| staged.discard()).await;
        }
    }

    async fn settle(self) -> Result<(Staged, Vec<u8>), BackendError> {
        match self {
            Self::Idle { staged, spare } => Ok((staged, spare)),
            Self::Busy(task) => joined(task.await),
        }
    }
}
