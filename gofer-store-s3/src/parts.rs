//! The stream of a put, cut into parts.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use gofer_core::BackendError;
use gofer_core::object_store::ByteStream;

/// A buffer that has grown to this is given its full size at once, instead of being copied at each
/// doubling.
const GROW_WHOLE_BYTES: usize = 256 * 1024;

/// The stream, cut into parts.
pub(crate) struct Parts {
    body: ByteStream,
    part_bytes: usize,
    gathered: BytesMut,
    /// What came with the last piece and belongs to the next part.
    rest: Bytes,
}

impl Parts {
    pub(crate) fn new(body: ByteStream, part_bytes: usize) -> Self {
        Self { body, part_bytes, gathered: BytesMut::new(), rest: Bytes::new() }
    }

    /// The next part: of full size, or shorter when the stream has ended. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Result<Bytes, BackendError> {
        loop {
            let space = self.part_bytes - self.gathered.len();
            let piece = self.rest.split_to(space.min(self.rest.len()));
            if self.gathered.len() + piece.len() > GROW_WHOLE_BYTES {
                self.gathered.reserve(space);
            }

            self.gathered.extend_from_slice(&piece);
            if self.gathered.len() == self.part_bytes {
                break;
            }

            match self.body.next().await {
                Some(piece) => self.rest = piece?,
                None => break,
            }
        }
        Ok(std::mem::take(&mut self.gathered).freeze())
    }

    /// Whether the stream has nothing more.
    pub(crate) async fn at_end(&mut self) -> Result<bool, BackendError> {
        while self.rest.is_empty() {
            match self.body.next().await {
                Some(piece) => self.rest = piece?,
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_stream_is_cut_into_parts_of_full_size_and_a_rest() {
        for pieces in [vec![25], vec![10, 10, 5], vec![3, 0, 9, 13], vec![1; 25]] {
            let body = stream::iter(pieces.clone())
                .map(|length| Ok(Bytes::from(vec![b'x'; length])))
                .boxed();
            let mut parts = Parts::new(body, 10);
            let mut lengths = Vec::new();
            loop {
                lengths.push(parts.next().await.unwrap().len());
                if lengths.last() != Some(&10) || parts.at_end().await.unwrap() {
                    break;
                }
            }
            assert_eq!(lengths, [10, 10, 5], "pieces of {pieces:?}");
        }
    }
}
