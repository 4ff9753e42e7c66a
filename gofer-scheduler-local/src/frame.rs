//! The format of a log file: frames of at most 64 KiB, in the order the supervisor received them.
//!
//! One file and not one per stream, so that the order between stdout and stderr is kept, and
//! because it halves what a start costs. A frame is a tag byte (`o` stdout, `e` stderr), three zero
//! bytes, the length as u32 little-endian, when it was read as i64 little-endian in microseconds
//! since 1970, and the bytes as they are. The tags `O` and `E` are of versions that wrote no time.

use gofer_core::Timestamp;
use gofer_core::scheduler::{LogStream, MAX_LOG_CHUNK_BYTES};

/// Bytes before the data of a frame.
pub(crate) const HEADER_BYTES: usize = UNTIMED_HEADER_BYTES + 8;
/// The same of a frame without a time.
const UNTIMED_HEADER_BYTES: usize = 8;
/// Most data in one frame: the most a [`gofer_core::scheduler::LogChunk`] may hold, and a pipe by
/// default.
pub(crate) const MAX_DATA_BYTES: usize = MAX_LOG_CHUNK_BYTES;

/// The header of a frame. `length` is at most [`MAX_DATA_BYTES`].
pub(crate) fn header(stream: LogStream, at: Timestamp, length: usize) -> [u8; HEADER_BYTES] {
    let tag = match stream {
        LogStream::Stdout => b'o',
        LogStream::Stderr => b'e',
    };
    let mut header = [0; HEADER_BYTES];
    header[0] = tag;
    header[4..8].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    header[8..].copy_from_slice(&at.0.to_le_bytes());
    header
}

/// What is at the front of some bytes of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// The beginning of one, or nothing: it is still being written, or never will be.
    Incomplete,
    /// Not a frame.
    Corrupt,
}

/// A piece of output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) stream: LogStream,
    pub(crate) at: Option<Timestamp>,
    pub(crate) data: &'a [u8],
    /// Bytes of the whole frame.
    pub(crate) length: usize,
}

/// Reads the frame at the front.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<UNTIMED_HEADER_BYTES>() else {
        return Parsed::Incomplete;
    };

    let [tag, 0, 0, 0, a, b, c, d] = *head else { return Parsed::Corrupt };
    let data_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    let stream = match tag {
        b'o' | b'O' => LogStream::Stdout,
        b'e' | b'E' => LogStream::Stderr,
        _ => return Parsed::Corrupt,
    };

    if data_bytes > MAX_DATA_BYTES {
        return Parsed::Corrupt;
    }

    let (at, rest) = if tag.is_ascii_lowercase() {
        let Some((micros, rest)) = rest.split_first_chunk::<8>() else { return Parsed::Incomplete };
        (Some(Timestamp(i64::from_le_bytes(*micros))), rest)
    } else {
        (None, rest)
    };

    match rest.get(..data_bytes) {
        Some(data) => {
            let length = bytes.len() - rest.len() + data_bytes;
            Parsed::Frame(Frame { stream, at, data, length })
        }
        None => Parsed::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp(1_795_525_766_000_001);

    #[test]
    fn frames_round_trip_and_torn_ones_wait() {
        let mut bytes = header(LogStream::Stderr, AT, 3).to_vec();
        bytes.extend(b"a\0\xff");
        let frame = Frame {
            stream: LogStream::Stderr,
            at: Some(AT),
            data: b"a\0\xff",
            length: bytes.len(),
        };

        assert_eq!(parse(&bytes), Parsed::Frame(frame));
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Parsed::Incomplete);
        }

        bytes[0] = b'X';
        assert_eq!(parse(&bytes), Parsed::Corrupt);
        assert_eq!(parse(&header(LogStream::Stdout, AT, MAX_DATA_BYTES + 1)), Parsed::Corrupt);
    }

    #[test]
    fn frames_of_earlier_versions_have_no_time() {
        let bytes = b"E\0\0\0\x02\0\0\0abO\0\0\0\x01\0\0\0c";
        let Parsed::Frame(first) = parse(bytes) else { panic!("a frame") };
        assert_eq!(first, Frame { stream: LogStream::Stderr, at: None, data: b"ab", length: 10 });
        let rest = Frame { stream: LogStream::Stdout, at: None, data: b"c", length: 9 };
        assert_eq!(parse(&bytes[first.length..]), Parsed::Frame(rest));
    }
}
