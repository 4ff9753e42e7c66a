//! What is to be stored: the bytes that a file held when it was opened, whatever is done to it
//! meanwhile.

use std::io::{self, ErrorKind, SeekFrom};
use std::path::Path;

use futures::{Stream, StreamExt as _};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::bytes::Bytes;
use tokio_util::io::ReaderStream;

use crate::errors::Failure;
use crate::format::hex;

/// A good size of a chunk, as the contract says.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// An open file.
#[derive(Debug)]
pub(crate) struct Source {
    name: String,
    file: File,
    /// The beginning. All of it, if the size is no greater.
    head: Bytes,
    size_bytes: Option<u64>,
}

impl Source {
    /// Opens the file, and reads its beginning.
    ///
    /// What the system says of a file's size is true of most, but 0 of those in `/proc`, and 4096
    /// of those in `/sys`. These are small, so a file that ends within the first piece is as long
    /// as that.
    pub(crate) async fn open(path: &Path, key: &str) -> Result<Self, Failure> {
        let name = format!("`{}`", path.display());
        let wrong = |error: io::Error| unreadable(&name, &error);
        let mut file = File::open(path).await.map_err(wrong)?;
        let meta = file.metadata().await.map_err(wrong)?;
        if meta.is_dir() {
            let pack = format!("pack it: `tar c {} | gofer object put {key} -`", path.display());
            return Err(Failure::usage(format!("{name} is a folder")).hint(pack));
        }

        let promised = Some(meta.len()).filter(|length| meta.is_file() && *length > 0);

        let most = promised.unwrap_or(u64::MAX).min(CHUNK_BYTES as u64);
        let mut head = Vec::new();
        (&mut file).take(most).read_to_end(&mut head).await.map_err(wrong)?;
        let length = head.len() as u64;
        if length < most && file.metadata().await.map_err(wrong)?.len() < meta.len() {
            return Err(shorter(&name));
        }

        let size_bytes = if length < most { Some(length) } else { promised };
        Ok(Self { name, file, head: head.into(), size_bytes })
    }

    /// The path, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes there are; `None` of a pipe, for example.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// The SHA-256 of a file whose size is known; it can be read again afterwards.
    pub(crate) async fn sha256(&mut self) -> Result<String, Failure> {
        let mut hash = Sha256::new();
        hash.update(&self.head);
        let mut left = self.left().unwrap_or(0);
        let mut buffer = vec![0; 1 << 20];

        while left > 0 {
            let read = (&mut self.file).take(left).read(&mut buffer).await;
            match read.map_err(|error| unreadable(&self.name, &error))? {
                0 => return Err(shorter(&self.name)),
                bytes => {
                    hash.update(&buffer[..bytes]);
                    left -= bytes as u64;
                }
            }
        }

        if self.left() != Some(0) {
            let back = self.file.seek(SeekFrom::Start(self.head.len() as u64)).await;
            back.map_err(|error| unreadable(&self.name, &error))?;
        }

        Ok(hex(&hash.finalize()))
    }

    /// Bytes after the beginning.
    fn left(&self) -> Option<u64> {
        Some(self.size_bytes?.saturating_sub(self.head.len() as u64))
    }

    /// The bytes. What is appended meanwhile is not among them, and an end before its time is an
    /// error.
    pub(crate) fn chunks(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let left = self.left();
        let head = Some(self.head).filter(|head| !head.is_empty());
        let rest =
            ReaderStream::with_capacity(self.file.take(left.unwrap_or(u64::MAX)), CHUNK_BYTES);
        let rest = futures::stream::unfold((rest, left), async |(mut rest, mut left)| {
            let chunk = match (rest.next().await, left) {
                (Some(chunk), _) => chunk,
                (None, Some(1..)) => {
                    left = Some(0);
                    Err(ErrorKind::UnexpectedEof.into())
                }
                (None, _) => return None,
            };

            if let (Some(left), Ok(chunk)) = (&mut left, &chunk) {
                *left = left.saturating_sub(chunk.len() as u64);
            }

            Some((chunk, (rest, left)))
        });

        futures::stream::iter(head.map(Ok)).chain(rest)
    }
}

/// Why the bytes could not be read.
pub(crate) fn unreadable(name: &str, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::UnexpectedEof => shorter(name),
        _ => Failure::usage(format!("cannot read {name}: {error}")),
    }
}

fn shorter(name: &str) -> Failure {
    Failure::usage(format!("{name} became shorter while it was read; nothing is stored"))
        .hint("try again once nobody writes to it")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn all(source: Source) -> io::Result<Vec<u8>> {
        let chunks: Vec<_> = source.chunks().collect().await;
        Ok(chunks.into_iter().collect::<io::Result<Vec<_>>>()?.concat())
    }

    #[tokio::test]
    async fn what_is_appended_meanwhile_is_not_read() {
        for size in [1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES] {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(&vec![b'x'; size]).expect("written");
            let mut source = Source::open(file.path(), "k").await.expect("opened");
            file.write_all(&vec![b'y'; 2 * CHUNK_BYTES]).expect("written");
            assert_eq!(source.size_bytes(), Some(size as u64));
            let sum = source.sha256().await.expect("a sum");
            let read = all(source).await.expect("read");
            assert!(read == vec![b'x'; size], "{size}");
            assert_eq!(sum, hex(&Sha256::digest(&read)));
        }
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(3 * CHUNK_BYTES as u64).expect("a size");
        let source = Source::open(file.path(), "k").await.expect("opened");
        let mut again = Source::open(file.path(), "k").await.expect("opened");
        file.as_file().set_len(2 * CHUNK_BYTES as u64).expect("a size");
        let error = all(source).await.expect_err("shorter");
        let failure = unreadable("`g`", &error).render();
        assert!(failure.contains("`g` became shorter while it was read"), "{failure}");
        assert!(again.sha256().await.is_err());
    }

    #[tokio::test]
    async fn files_whose_size_the_system_does_not_know_are_read_to_their_end() {
        for path in [
            "/proc/cpuinfo",
            "/proc/self/status",
            "/sys/kernel/mm/transparent_hugepage/enabled",
            "/dev/null",
        ] {
            let path = Path::new(path);
            if !path.exists() {
                continue;
            }

            let source = Source::open(path, "k").await.expect("opened");
            let size = source.size_bytes();
            let read = all(source).await.expect("read");
            assert!(
                size.is_none_or(|size| size == read.len() as u64),
                "{} {size:?}",
                path.display()
            );
            assert_eq!(read.is_empty(), path == Path::new("/dev/null"));
        }
    }
}
