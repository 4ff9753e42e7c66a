//! Looks at the wire format of a request piece by piece as it arrives: counts entries and levels,
//! builds nothing. What it refuses was never decoded, and what it lets pass costs no more memory
//! than it said.

use super::shape::{Content, ELEMENTS_MAX, Field, LIMITED_FIELDS, Shapes};
use crate::error::ApiError;

/// Most messages within messages. The contract's deepest request has six levels.
const DEPTH_MAX: usize = 16;
/// Longest number on the wire.
const VARINT_MAX_BYTES: u32 = 10;

/// One message on the way down to where the walk is.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    shape: usize,
    /// Where it ends.
    end: u64,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Part of a field's number and type.
    Tag { value: u64, bytes: u32 },
    /// Part of a number that nobody here needs.
    Number { bytes: u32 },
    /// Part of the length of a field's content.
    Length { field: Option<usize>, value: u64, bytes: u32 },
    /// Content that has no parts.
    Skip { left: u64 },
    /// Numbers of variable length, one after the other.
    Packed { field: usize, left: u64 },
}

const START: State = State::Tag { value: 0, bytes: 0 };

/// A walk through one message.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    shapes: &'a Shapes,
    levels: [Level; DEPTH_MAX],
    depth: usize,
    at: u64,
    state: State,
    elements: u32,
    counts: [u32; LIMITED_FIELDS],
    cost: u64,
}

impl<'a> Walk<'a> {
    /// At the beginning of a message of this shape and length.
    pub(super) fn new(shapes: &'a Shapes, shape: usize, length: u64) -> Self {
        let mut levels = [Level::default(); DEPTH_MAX];
        levels[0] = Level { shape, end: length };
        Self {
            shapes,
            levels,
            depth: 0,
            at: 0,
            state: START,
            elements: 0,
            counts: [0; LIMITED_FIELDS],
            cost: 0,
        }
    }

    /// Bytes of memory that the entries so far will take, besides the message itself.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// Goes on with the next piece.
    ///
    /// # Errors
    /// When there is too much of something, or the bytes are no message.
    pub(super) fn go_on(&mut self, mut piece: &[u8]) -> Result<(), ApiError> {
        while !piece.is_empty() {
            match self.state {
                State::Skip { left } => {
                    let taken = left.min(piece.len() as u64);
                    self.advance(&mut piece, taken);
                    self.state =
                        if left == taken { START } else { State::Skip { left: left - taken } };
                }
                State::Packed { field, left } => {
                    let taken = left.min(piece.len() as u64);
                    let (numbers, _) =
                        piece.split_at(usize::try_from(taken).unwrap_or(piece.len()));

                    // Each number has one byte, its last, without the continuation bit.
                    let ended = numbers.iter().filter(|byte| **byte < 0x80).count();
                    self.count(field, ended as u64)?;
                    self.advance(&mut piece, taken);
                    self.state = if left == taken {
                        START
                    } else {
                        State::Packed { field, left: left - taken }
                    };
                }
                State::Tag { .. } | State::Number { .. } | State::Length { .. } => {
                    self.leave_what_has_ended();
                    let byte = piece[0];
                    if self.at >= self.levels[self.depth].end {
                        return Err(malformed("a field is longer than its message"));
                    }
                    self.advance(&mut piece, 1);
                    self.byte(byte)?;
                }
            }
        }
        Ok(())
    }

    /// The end of the message.
    ///
    /// # Errors
    /// When it ends in the middle of something.
    pub(super) fn end(mut self) -> Result<(), ApiError> {
        self.leave_what_has_ended();
        match self.state {
            State::Tag { bytes: 0, .. } if self.depth == 0 => Ok(()),
            _ => Err(malformed("it ends in the middle of a field")),
        }
    }

    fn advance(&mut self, piece: &mut &[u8], by: u64) {
        self.at += by;
        *piece = &piece[usize::try_from(by).unwrap_or(piece.len())..];
    }

    fn leave_what_has_ended(&mut self) {
        if matches!(self.state, State::Tag { bytes: 0, .. }) {
            while self.depth > 0 && self.at == self.levels[self.depth].end {
                self.depth -= 1;
            }
        }
    }

    fn byte(&mut self, byte: u8) -> Result<(), ApiError> {
        let last = byte < 0x80;
        match &mut self.state {
            State::Tag { value, bytes } | State::Length { value, bytes, .. } => {
                // The tenth byte has room for one bit.
                if *bytes + 1 > VARINT_MAX_BYTES || (*bytes == VARINT_MAX_BYTES - 1 && byte > 1) {
                    return Err(malformed("a number is too long"));
                }
                *value |= u64::from(byte & 0x7f) << (7 * *bytes);
                *bytes += 1;
            }
            State::Number { bytes } => {
                *bytes += 1;
                if *bytes > VARINT_MAX_BYTES {
                    return Err(malformed("a number is too long"));
                }
            }
            State::Skip { .. } | State::Packed { .. } => {}
        }

        match self.state {
            State::Tag { value, .. } if last => self.field(value),
            State::Length { field, value, .. } if last => self.content(field, value),
            State::Number { .. } if last => {
                self.state = START;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A field begins.
    fn field(&mut self, tag: u64) -> Result<(), ApiError> {
        let number =
            u32::try_from(tag >> 3).ok().filter(|number| *number > 0 && tag <= u64::from(u32::MAX));
        let Some(number) = number else { return Err(malformed("a field has no number")) };
        let field = self.shape().find(number);
        self.state = match tag & 7 {
            0 => State::Number { bytes: 0 },
            1 => State::Skip { left: self.fits(8)? },
            5 => State::Skip { left: self.fits(4)? },
            2 => State::Length { field, value: 0, bytes: 0 },
            _ => return Err(malformed("a field has a type that the contract does not use")),
        };

        match field {
            // Not packed: each is an entry.
            Some(field) if tag & 7 != 2 => self.count(field, 1),
            _ => Ok(()),
        }
    }

    /// A field's content of this length begins.
    fn content(&mut self, field: Option<usize>, length: u64) -> Result<(), ApiError> {
        let left = self.fits(length)?;
        self.state = if left == 0 { START } else { State::Skip { left } };
        let Some(index) = field else { return Ok(()) };
        let (content, repeated) = {
            let field = self.shape().field(index);
            (field.content, field.repeated)
        };

        match content {
            Content::Varint if repeated && left > 0 => {
                self.state = State::Packed { field: index, left }
            }
            Content::Fixed(size) => self.count(index, left / size)?,
            Content::Varint => {}
            Content::Bytes => self.count(index, 1)?,
            Content::Message(shape) => {
                self.count(index, 1)?;
                self.enter(shape, left)?;
            }
        }

        Ok(())
    }

    fn enter(&mut self, shape: usize, length: u64) -> Result<(), ApiError> {
        self.state = START;
        self.depth += 1;
        if self.depth == DEPTH_MAX {
            return Err(too_large(
                "levels of messages within messages",
                DEPTH_MAX as u64 + 1,
                DEPTH_MAX as u64,
            ));
        }
        self.levels[self.depth] = Level { shape, end: self.at + length };
        Ok(())
    }

    /// The length, if the message that is being walked through has as much left.
    fn fits(&self, length: u64) -> Result<u64, ApiError> {
        let left = self.levels[self.depth].end - self.at;
        if length <= left {
            Ok(length)
        } else {
            Err(malformed("a field is longer than its message"))
        }
    }

    /// Counts entries of a field of the message that is being walked through.
    fn count(&mut self, field: usize, entries: u64) -> Result<(), ApiError> {
        let shapes = self.shapes;
        let field: &Field = shapes.message(self.levels[self.depth].shape).field(field);
        if !field.repeated || entries == 0 {
            return Ok(());
        }

        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        self.elements = self.elements.saturating_add(entries);
        self.cost += u64::from(entries) * u64::from(field.entry_cost);
        if let Some((slot, limit)) = field.limit {
            self.counts[slot] = self.counts[slot].saturating_add(entries);
            if self.counts[slot] > limit {
                return Err(too_large(
                    format!("entries of `{}`", field.name),
                    self.counts[slot].into(),
                    limit.into(),
                ));
            }
        }

        if self.elements > ELEMENTS_MAX {
            let what = format!("entries of repeated fields (the last of them of `{}`)", field.name);
            return Err(too_large(what, self.elements.into(), ELEMENTS_MAX.into()));
        }

        Ok(())
    }

    fn shape(&self) -> &'a super::shape::Shape {
        self.shapes.message(self.levels[self.depth].shape)
    }
}

fn malformed(problem: &str) -> ApiError {
    ApiError::Malformed { problem: problem.to_owned() }
}

pub(super) fn too_large(what: impl Into<String>, found: u64, limit: u64) -> ApiError {
    ApiError::TooLarge { what: what.into(), found, limit }
}
