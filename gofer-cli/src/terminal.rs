//! What others wrote, made safe for a terminal: text and colours. Everything else a terminal obeys
//! is left out, since it could overwrite what Gofer says itself, move the cursor, or set the
//! window's title.

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};

/// Back to the terminal's own colours.
const RESET: &[u8] = b"\x1b[0m";

/// The text without what would move a terminal's cursor or change its colours.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The same for a text of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// One line, without its end, as it looks once all of it was written: of a line that was
/// overwritten (`\r`), as progress bars do, the last state. Colours end with it.
pub(crate) fn line(bytes: &[u8]) -> Vec<u8> {
    let mut shown = Shown { overwrites: true, ..Shown::default() };
    let mut parser = Parser::<DefaultCharAccumulator>::new();
    for byte in bytes {
        parser.advance(&mut shown, *byte);
    }
    shown.reset();
    shown.bytes
}

/// The bytes of a log that has the terminal for itself, piece by piece as they come.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    parser: Parser<DefaultCharAccumulator>,
    shown: Shown,
}

impl Stream {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        for byte in bytes {
            self.parser.advance(&mut self.shown, *byte);
        }
        std::mem::take(&mut self.shown.bytes)
    }

    /// The log has ended.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.shown.reset();
        std::mem::take(&mut self.shown.bytes)
    }
}

/// What of it a terminal gets.
#[derive(Debug, Default)]
struct Shown {
    bytes: Vec<u8>,
    /// A carriage return is worked out here instead of by the terminal.
    overwrites: bool,
    /// A carriage return came, and nothing after it yet.
    returned: bool,
    /// Colours are set.
    coloured: bool,
}

impl Shown {
    fn text(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.returned) {
            self.bytes.clear();
            if self.coloured {
                // Set before, and still in force; which they were does not matter for a line that
                // is drawn anew.
                self.bytes.extend_from_slice(RESET);
            }
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn reset(&mut self) {
        if std::mem::take(&mut self.coloured) {
            self.bytes.extend_from_slice(RESET);
        }
    }
}

impl Perform for Shown {
    fn print(&mut self, character: char) {
        // The controls from U+0080 on are escape sequences to some terminals.
        if !character.is_control() {
            self.text(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\t' => self.text(b"\t"),
            b'\n' => {
                self.reset();
                self.bytes.push(b'\n');
            }
            b'\r' if self.overwrites => self.returned = true,
            b'\r' => self.bytes.push(b'\r'),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: u8) {
        if action != b'm' || !intermediates.is_empty() || ignore {
            return;
        }
        let numbers = params
            .iter()
            .map(|param| param.iter().map(u16::to_string).collect::<Vec<_>>().join(":"));
        let sequence = format!("\x1b[{}m", numbers.collect::<Vec<_>>().join(";"));
        self.text(sequence.as_bytes());
        self.coloured = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8]) -> String {
        String::from_utf8(line(text)).expect("text")
    }

    #[test]
    fn text_and_colours_are_kept_and_colours_end_with_the_line() {
        assert_eq!(shown("a\tb – ü".as_bytes()), "a\tb – ü");
        assert_eq!(shown(b"\x1b[31mred\x1b[0m plain"), "\x1b[31mred\x1b[0m plain\x1b[0m");
        assert_eq!(shown(b"\x1b[1;38;2;1;2;3mx"), "\x1b[1;38;2;1;2;3mx\x1b[0m");
        assert_eq!(shown(b"\x1b[4:3mx"), "\x1b[4:3mx\x1b[0m");
        assert_eq!(shown(b"\x1b[mx"), "\x1b[0mx\x1b[0m");
    }

    #[test]
    fn everything_else_that_a_terminal_obeys_is_left_out() {
        for sequence in [
            &b"\x1b[1A"[..],
            b"\x1b[2K",
            b"\x1b[?1049h",
            b"\x1b[>4;1m",
            b"\x1b]0;title\x07",
            b"\x1b]0;title\x1b\\",
            b"\x1b]8;;http://x\x1b\\",
            b"\x1bP+q\x1b\\",
            b"\x1bc",
            b"\x1b7",
            b"\x08",
            b"\x07",
            b"\x0b",
            b"\x0c",
            b"\0",
            b"\x7f",
            "\u{9b}1A".as_bytes(),
            "\u{85}".as_bytes(),
        ] {
            let text = shown(&[b"a", sequence, b"b"].concat());
            let rest =
                text.strip_prefix('a').and_then(|text| text.strip_suffix('b')).expect("a and b");
            assert!(
                rest.chars().all(|c| c.is_ascii_graphic()) && !rest.contains('\x1b'),
                "{sequence:?}: {text:?}"
            );
        }
        assert_eq!(shown(b"a\x1b]0;never ends"), "a");
    }

    #[test]
    fn of_a_line_that_was_overwritten_the_last_state_is_shown() {
        assert_eq!(shown(b"10%\r50%\r100%"), "100%");
        assert_eq!(shown(b"100%\r"), "100%", "nothing came after");
        assert_eq!(shown(b"line\r\r"), "line");
        assert_eq!(shown(b"build | forged\rtest | ok"), "test | ok");
    }

    #[test]
    fn a_stream_may_be_cut_anywhere() {
        let text = "a\x1b[31mb\u{fc}\r\nc\x1b]0;title\x07\x1b[2Kd\n".as_bytes();
        let expected = "a\x1b[31mb\u{fc}\r\x1b[0m\ncd\n";
        for at in 0..text.len() {
            let mut stream = Stream::default();
            let parts = [stream.push(&text[..at]), stream.push(&text[at..]), stream.end()];
            assert_eq!(String::from_utf8(parts.concat()).expect("text"), expected, "cut at {at}");
        }
    }

    #[test]
    fn a_sequence_without_end_does_not_fill_the_memory() {
        let mut stream = Stream::default();
        assert_eq!(stream.push(b"\x1b]0;"), b"");
        for _ in 0..100 {
            assert_eq!(stream.push(&[b'x'; 10_000]), b"");
        }
        assert!(format!("{stream:?}").len() < 100_000, "kept");
    }
}
