//! The word by which the script says that the command has ended.

use bytes::{Bytes, BytesMut};

/// Finds the word that the command has ended in what it writes, and keeps it.
pub(crate) struct EndMark {
    word: Vec<u8>,
    /// What may be the beginning of it.
    held: BytesMut,
    /// Whether the word has come.
    pub(crate) seen: bool,
}

impl EndMark {
    pub(crate) fn new(mark: &str) -> Self {
        Self { word: format!("{mark}=").into_bytes(), held: BytesMut::new(), seen: false }
    }

    /// What can be handed out by now. Nothing of what comes after the word is.
    pub(crate) fn push(&mut self, data: &[u8]) -> Bytes {
        if self.seen {
            return Bytes::new();
        }
        self.held.extend_from_slice(data);
        let word = &self.word;
        if let Some(at) = self.held.windows(word.len()).position(|part| part == word) {
            self.seen = true;
            return std::mem::take(&mut self.held).split_to(at).freeze();
        }
        let begun =
            (1..word.len()).rev().find(|&length| self.held.ends_with(&word[..length])).unwrap_or(0);
        self.held.split_to(self.held.len() - begun).freeze()
    }

    /// The rest; nothing more comes.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_it_is_cut() {
        for cut in 0..8 {
            let text = b"out abc= rest";
            let mut mark = EndMark::new("abc");
            let (first, second) = text.split_at(cut);
            let mut all = Vec::new();
            for piece in [first, second, b"more"] {
                all.extend_from_slice(&mark.push(piece));
            }
            assert!(mark.seen && all == b"out ", "{cut}: {all:?}");
        }
        let mut mark = EndMark::new("abc");
        assert_eq!(mark.push(b"xxab"), Bytes::from("xx"));
        assert_eq!(mark.push(b"abcab"), Bytes::from("ababc"));
        assert_eq!(mark.finish(), Bytes::from("ab"));
    }
}
