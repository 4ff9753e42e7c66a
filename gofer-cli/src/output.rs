//! What goes to stdout and stderr: tables for people, canonical proto JSON for programs, bytes as
//! they are.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use prost::{Message, Name};

use crate::errors::Failure;
pub(crate) use crate::terminal::printable;
use crate::terminal::printable_lines;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// Canonical proto3 JSON; streams as one object per line.
    Json,
}

/// Stdout and stderr of one command. A reader that has gone away (`| head`) is no error: see
/// [`Out::closed`].
#[derive(Debug)]
pub(crate) struct Out {
    format: Format,
    quiet: bool,
    /// Stdout and stderr are the same file, pipe or terminal.
    one_file: bool,
    /// Stdout is a terminal; or was, if it has been closed.
    terminal: bool,
    closed: AtomicBool,
}

impl Out {
    pub(crate) fn new(format: Format, quiet: bool) -> Self {
        Self {
            format,
            quiet,
            one_file: is_one_file().unwrap_or(false),
            terminal: io::stdout().is_terminal(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether nobody reads stdout any more: endless commands end then.
    pub(crate) fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes bytes to stdout and flushes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        if self.closed() {
            return Ok(());
        }

        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            // What reads a terminal is its window.
            Err(error)
                if error.kind() == io::ErrorKind::BrokenPipe
                    || self.terminal && error.raw_os_error() == Some(EIO) =>
            {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Failure::usage(format!("cannot write to stdout: {error}"))),
        }
    }

    /// Writes one line to stdout.
    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes bytes to stderr; nobody can be told when that does not work. Where stdout is the same
    /// file, all goes to stdout in one order: two descriptors of one file may each have a position
    /// of their own.
    pub(crate) fn error_bytes(&self, bytes: &[u8]) {
        if self.one_file {
            let _ = self.bytes(bytes);
        } else {
            let _ = io::stderr().lock().write_all(bytes);
        }
    }

    /// Tells a person something that is not the result, on stderr, unless `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{}", printable_lines(text));
        }
    }

    /// A message as JSON on one line, or over several lines when a person looks at it.
    pub(crate) fn json<M: Message + Name>(&self, message: &M) -> Result<(), Failure> {
        self.json_value(&gofer_proto::json::to_json(message))
    }

    /// See [`Out::json`].
    pub(crate) fn json_value(&self, value: &serde_json::Value) -> Result<(), Failure> {
        if self.terminal {
            self.line(&escape_controls(format!("{value:#}")))
        } else {
            self.json_line(value)
        }
    }

    /// An object of a stream: always one line.
    pub(crate) fn json_line(&self, value: &serde_json::Value) -> Result<(), Failure> {
        let text = value.to_string();
        self.line(&if self.terminal { escape_controls(text) } else { text })
    }

    /// The result of a command: the message as JSON, or what `table` makes of it.
    pub(crate) fn show<M: Message + Name>(
        &self,
        message: &M,
        table: impl FnOnce(&M) -> String,
    ) -> Result<(), Failure> {
        if self.is_json() { self.json(message) } else { self.bytes(table(message).as_bytes()) }
    }

    /// The answer to a change: the message as JSON, or one sentence that `--quiet` leaves out.
    pub(crate) fn done<M: Message + Name>(
        &self,
        message: &M,
        sentence: impl FnOnce(&M) -> String,
    ) -> Result<(), Failure> {
        match (self.is_json(), self.quiet) {
            (true, _) => self.json(message),
            (false, true) => Ok(()),
            (false, false) => self.line(&printable_lines(&sentence(message))),
        }
    }
}

fn is_one_file() -> io::Result<bool> {
    let what = |file: BorrowedFd<'_>| {
        let meta = File::from(file.try_clone_to_owned()?).metadata()?;
        io::Result::Ok((meta.dev(), meta.ino()))
    };
    Ok(what(io::stdout().as_fd())? == what(io::stderr().as_fd())?)
}

/// Columns with a header, without lines between them.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    trimmed(&table)
}

/// Names and values, one per line; pairs without a value are left out.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([(*name).to_owned(), printable(value)]);
    }
    trimmed(&table)
}

/// Left-aligned, without the padding at the end of lines.
fn trimmed(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim().trim_end());
        text.push('\n');
    }
    text
}

/// JSON that moves no terminal's cursor. Its writer escapes the controls below U+0020, and leaves
/// those from U+007F on.
fn escape_controls(json: String) -> String {
    use std::fmt::Write as _;
    if !json.contains(|c: char| c.is_control() && c != '\n') {
        return json;
    }
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        if c.is_control() && c != '\n' {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
        text
    })
}

/// "Input/output error", the same number on every Unix: of a terminal that was closed.
const EIO: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_aligned_columns_and_no_trailing_spaces() {
        let text = table(
            &["NAME", "STATE"],
            [vec!["a".into(), "on".into()], vec!["longer".into(), "off".into()]],
        );
        assert_eq!(text, "NAME    STATE\na       on\nlonger  off\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a [31mb c");
        assert_eq!(printable_lines("a\u{9b}1Ab\nc\r"), "a 1Ab\nc ");
        let json = serde_json::json!({"a": "\u{9b}1A\u{7f}"});
        let escaped = escape_controls(json.to_string());
        assert_eq!(escaped, "{\"a\":\"\\u009b1A\\u007f\"}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), json);
    }
}
