//! The format of a log file: frames of at most 64 KiB, in the order the supervisor received them.
//!
//! One file and not one per stream, so that the order between stdout and stderr is kept, and because it halves what a
//! start costs. A frame is a tag byte, three zero bytes, the length as u32 little-endian, and the bytes as they are.

use gofer_core::scheduler::LogStream;

/// Bytes before the data of a frame.
pub(crate) const HEADER_BYTES: usize = 8;
/// Most data in one frame; also the most a [`gofer_core::scheduler::LogChunk`] may hold, and a pipe by default.
pub(crate) const MAX_DATA_BYTES: usize = 64 * 1024;

/// The header of a frame. `length` is at most [`MAX_DATA_BYTES`].
pub(crate) fn header(stream: LogStream, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [tag(stream), 0, 0, 0, a, b, c, d]
}

/// What is at the front of some bytes of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A whole frame: its stream and its data.
    Frame(LogStream, &'a [u8]),
    /// The beginning of one, or nothing: it is still being written, or never will be.
    Incomplete,
    /// Not a frame.
    Corrupt,
}

/// Reads the frame at the front.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Parsed::Incomplete };
    let [tag_byte, 0, 0, 0, a, b, c, d] = *head else { return Parsed::Corrupt };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let stream = [LogStream::Stdout, LogStream::Stderr].into_iter().find(|&stream| tag(stream) == tag_byte);
    match stream {
        Some(stream) if length <= MAX_DATA_BYTES => match rest.get(..length) {
            Some(data) => Parsed::Frame(stream, data),
            None => Parsed::Incomplete,
        },
        _ => Parsed::Corrupt,
    }
}

fn tag(stream: LogStream) -> u8 {
    match stream {
        LogStream::Stdout => b'O',
        LogStream::Stderr => b'E',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_torn_ones_wait() {
        let mut bytes = header(LogStream::Stderr, 3).to_vec();
        bytes.extend(b"a\0\xff");
        assert_eq!(parse(&bytes), Parsed::Frame(LogStream::Stderr, b"a\0\xff"));
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Parsed::Incomplete);
        }
        bytes[0] = b'X';
        assert_eq!(parse(&bytes), Parsed::Corrupt);
        assert_eq!(parse(&header(LogStream::Stdout, MAX_DATA_BYTES + 1)), Parsed::Corrupt);
    }
}
