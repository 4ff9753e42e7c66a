//! Cuts a log where its lines end, whatever pieces it comes in: two outputs that are read as one
//! never share a line.
//!
//! The end of a piece that is no whole line waits for the rest of its line: until that comes, until
//! the line is too long for one record, or, while the log is followed, until its output has been
//! silent for a moment, as it is after a prompt.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use gofer_core::scheduler::{LogChunk, LogStream, MAX_LOG_CHUNK_BYTES};
use gofer_core::{BackendError, Timestamp};
use memchr::{memchr, memrchr};
use tokio::time::Instant;

use super::Chunks;

/// How long a line waits for its end. Short to a person at a prompt, and long to a program between
/// two writes of one line.
const SILENCE: Duration = Duration::from_millis(200);

const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

/// The log in whole lines, as far as it has them. Times never go back.
pub(crate) fn whole(source: Chunks, follow: bool) -> Chunks {
    let cutting = Cutting {
        source,
        follow,
        partial: [None, None],
        ready: VecDeque::new(),
        last: None,
        ended: false,
    };
    stream::unfold(cutting, |mut cutting| async move {
        cutting.next().await.map(|chunk| (chunk, cutting))
    })
    .boxed()
}

/// Where the cutting of a log stands.
struct Cutting {
    source: Chunks,
    follow: bool,
    /// The last line of stdout and of stderr, when its end has not come.
    partial: [Option<PartialLine>; 2],
    ready: VecDeque<LogChunk>,
    /// The latest time of what was handed out.
    last: Option<Timestamp>,
    ended: bool,
}

/// The beginning of a line.
struct PartialLine {
    offset: u64,
    data: Vec<u8>,
    at: Option<Timestamp>,
    /// Nothing was added to it since.
    since: Instant,
}

impl Cutting {
    async fn next(&mut self) -> Option<Result<LogChunk, BackendError>> {
        loop {
            if let Some(mut chunk) = self.ready.pop_front() {
                // A line that waited for its end would otherwise be older than what came since.
                chunk.at = chunk.at.max(self.last.filter(|_| chunk.at.is_some()));
                self.last = self.last.max(chunk.at);
                return Some(Ok(chunk));
            }

            if self.ended {
                return None;
            }

            match self.source_next().await {
                Ok(Some(Ok(chunk))) => self.take(chunk),
                Ok(Some(Err(error))) => return Some(Err(error)),
                Ok(None) => {
                    self.ended = true;
                    while let Some((_, stream)) = self.oldest() {
                        self.give_up(stream);
                    }
                }
                Err(silent) => self.give_up(silent),
            }
        }
    }

    /// The next piece; or the output that has been silent for so long that its last line should not
    /// wait for its end.
    async fn source_next(&mut self) -> Result<Option<Result<LogChunk, BackendError>>, LogStream> {
        match self.oldest().filter(|_| self.follow) {
            Some((since, stream)) => tokio::time::timeout_at(since + SILENCE, self.source.next())
                .await
                .map_err(|_| stream),
            None => Ok(self.source.next().await),
        }
    }

    /// Of the partial lines, the one that has waited longest.
    fn oldest(&self) -> Option<(Instant, LogStream)> {
        let waiting = STREAMS
            .into_iter()
            .filter_map(|stream| Some((self.partial[stream as usize].as_ref()?.since, stream)));
        waiting.min_by_key(|(since, _)| *since)
    }

    fn take(&mut self, mut chunk: LogChunk) {
        let stream = chunk.stream;

        // First the rest of a partial line, if both fit into one record.
        if let Some(partial) = &mut self.partial[stream as usize] {
            let end = memchr(b'\n', &chunk.data).map_or(chunk.data.len(), |newline| newline + 1);
            if partial.data.len() + end <= MAX_LOG_CHUNK_BYTES {
                let rest = split_to(&mut chunk, end);
                partial.data.extend_from_slice(&rest.data);
                partial.since = Instant::now();
                if !rest.data.ends_with(b"\n") {
                    return;
                }
            }

            self.give_up(stream);
        }

        // Then all lines that are whole, in one record; the last one is partial.
        let end = memrchr(b'\n', &chunk.data).map_or(0, |newline| newline + 1);
        let whole = split_to(&mut chunk, end);
        self.ready.extend((!whole.data.is_empty()).then_some(whole));

        if chunk.data.len() >= MAX_LOG_CHUNK_BYTES {
            self.ready.push_back(chunk);
        } else if !chunk.data.is_empty() {
            let LogChunk { offset, data, at, .. } = chunk;
            self.partial[stream as usize] =
                Some(PartialLine { offset, data: data.into(), at, since: Instant::now() });
        }
    }

    /// Hands out the partial line as it is.
    fn give_up(&mut self, stream: LogStream) {
        let Some(PartialLine { offset, data, at, .. }) = self.partial[stream as usize].take()
        else {
            return;
        };
        self.ready.push_back(LogChunk { stream, offset, data: Bytes::from(data), at });
    }
}

/// Takes the first bytes of the chunk off.
fn split_to(chunk: &mut LogChunk, length: usize) -> LogChunk {
    let first = LogChunk { data: chunk.data.split_to(length), ..*chunk };
    chunk.offset += length as u64;
    first
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use gofer_core::scheduler::LogCursor;
    use proptest::prelude::*;

    use super::*;

    fn pieces(pieces: &[(LogStream, &str, i64)]) -> Chunks {
        let mut seen = LogCursor::default();
        let chunk = |(stream, text, at): &(LogStream, &str, i64)| {
            let data = Bytes::copy_from_slice(text.as_bytes());
            let chunk = LogChunk {
                stream: *stream,
                offset: seen.of(*stream),
                data,
                at: Some(Timestamp(*at)),
            };
            seen.advance(&chunk);
            Ok(chunk)
        };
        stream::iter(pieces.iter().map(chunk).collect::<Vec<_>>()).boxed()
    }

    async fn read(source: Chunks, follow: bool) -> Vec<(LogStream, String, i64)> {
        let shown = |chunk: Result<LogChunk, BackendError>| {
            let LogChunk { stream, data, at, .. } = chunk.unwrap();
            (stream, String::from_utf8(data.to_vec()).unwrap(), at.unwrap().0)
        };
        whole(source, follow).map(shown).collect().await
    }

    use LogStream::{Stderr as E, Stdout as O};

    #[tokio::test]
    async fn outputs_share_no_line_and_keep_their_order() {
        let source =
            pieces(&[(O, "a", 1), (E, "x\ny", 2), (O, "b\nc\nd", 3), (E, "z\n", 4), (O, "e", 5)]);
        let expected = [(E, "x\n", 2), (O, "ab\n", 2), (O, "c\n", 3), (E, "yz\n", 3), (O, "de", 3)];
        assert_eq!(
            read(source, false).await,
            expected.map(|(stream, text, at)| (stream, text.to_owned(), at))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_is_shown_when_nothing_follows() {
        let prompt = pieces(&[(O, "name: ", 1)]);
        let later = |after| async move { tokio::time::sleep(after).await };
        let answer = later(Duration::from_secs(5)).map(|()| {
            let data = Bytes::from_static(b"thanks\n");
            Ok(LogChunk { stream: O, offset: 6, data, at: Some(Timestamp(2)) })
        });
        let mut followed = whole(prompt.chain(answer.into_stream()).boxed(), true);
        let begun = Instant::now();
        assert_eq!(followed.next().await.unwrap().unwrap().data, "name: ");
        assert_eq!(begun.elapsed().as_millis(), SILENCE.as_millis());
        assert_eq!(followed.next().await.unwrap().unwrap().data, "thanks\n");
        assert!(followed.next().await.is_none());
    }

    #[tokio::test]
    async fn a_line_without_end_is_passed_on_in_pieces() {
        let long = "x".repeat(MAX_LOG_CHUNK_BYTES - 1);
        let source =
            pieces(&[(O, "begin ", 1), (O, &long, 2), (O, &long, 3), (O, "end\nnext\n", 4)]);
        let lengths: Vec<_> =
            read(source, false).await.iter().map(|(_, text, _)| text.len()).collect();
        assert_eq!(lengths, [6, long.len(), long.len(), 9]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_whatever_the_cuts(given in prop::collection::vec((any::<bool>(), "[a\n]{1,5}", 0i64..9), 0..20)) {
            let stream = |stdout: bool| if stdout { O } else { E };
            let given: Vec<_> = given.iter().map(|(stdout, text, at)| (stream(*stdout), text.as_str(), *at)).collect();
            let seen = read(pieces(&given), false).now_or_never().unwrap();
            for one in STREAMS {
                let all: String = given.iter().filter(|piece| piece.0 == one).map(|piece| piece.1).collect();
                let shown: Vec<_> = seen.iter().filter(|piece| piece.0 == one).map(|piece| piece.1.as_str()).collect();
                prop_assert_eq!(shown.concat(), all);
                let (_, before) = shown.split_last().unwrap_or((&"", &[]));
                prop_assert!(before.iter().all(|text| text.ends_with('\n')), "{:?}", shown);
            }
            prop_assert!(seen.is_sorted_by_key(|piece| piece.2), "{:?}", seen);
        }
    }
}
