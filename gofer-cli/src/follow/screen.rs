//! The terminal that the live view is drawn on.
//!
//! The library's own fails when the terminal has been closed, and what draws above the live view
//! then panics. Here nothing is drawn any more: the end of the terminal comes as a signal, and what
//! that means is decided elsewhere.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

/// The size of a terminal that does not know its own.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// What has been drawn since the last time it was shown.
#[derive(Debug, Default)]
pub(super) struct Screen {
    drawn: Mutex<Vec<u8>>,
}

impl Screen {
    fn draw(&self, text: &str) -> io::Result<()> {
        self.drawn
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn move_cursor(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.draw(&format!("\x1b[{count}{direction}")) }
    }
}

/// Rows and columns.
fn size() -> (u16, u16) {
    let known = tcgetwinsize(io::stderr()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    known.map_or(USUAL_SIZE, |size| (size.ws_row, size.ws_col))
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        size().1
    }

    fn height(&self) -> u16 {
        size().0
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(text)?;
        self.draw("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner));
        // Nobody can be told that it is gone.
        let _ = io::stderr().lock().write_all(&drawn);
        Ok(())
    }
}
