//! The keys of one file.

use std::fmt::Write as _;

use secrecy::zeroize::Zeroizing;

use crate::key::Key;

const HEADER: &str = "\
# Keys of Gofer's local secret store, newest first. Without this file the secrets in the database are lost:
# back it up, apart from the database. Gofer writes it; do not edit.
";

/// Newest first; there is at least one.
#[derive(Debug)]
pub(crate) struct KeyRing {
    keys: Vec<Key>,
}

impl KeyRing {
    pub(crate) fn of(key: Key) -> Self {
        Self { keys: vec![key] }
    }

    /// The keys of a file's text.
    ///
    /// # Errors
    /// The broken rule, without any of the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            keys.push(Key::parse(line).ok_or_else(|| format!("line {} is no key", index + 1))?);
        }
        if keys.is_empty() { Err("it has no key".to_owned()) } else { Ok(Self { keys }) }
    }

    pub(crate) fn text(&self) -> Zeroizing<String> {
        let lines: Vec<_> = self.keys.iter().map(Key::line).collect();
        // Never grown, since growing would leave a copy behind.
        let length = HEADER.len() + lines.iter().map(|line| line.len() + 1).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(length));
        text.push_str(HEADER);
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// The key that new values are encrypted with.
    pub(crate) fn newest(&self) -> &Key {
        &self.keys[0]
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id() == id)
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The ids, for people.
    pub(crate) fn ids(&self) -> String {
        let mut text = String::new();
        for (index, key) in self.keys.iter().enumerate() {
            let _ = write!(text, "{}`{}`", if index == 0 { "" } else { ", " }, key.id());
        }
        text
    }

    pub(crate) fn add_newest(&mut self, key: Key) {
        self.keys.insert(0, key);
    }

    pub(crate) fn keep_newest(&mut self) {
        self.keys.truncate(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_order() {
        let mut ring = KeyRing::of(Key::generate().unwrap());
        ring.add_newest(Key::generate().unwrap());
        let read = KeyRing::parse(&ring.text()).unwrap();
        assert_eq!(read.ids(), ring.ids());
        assert_eq!(read.text(), ring.text());
        assert_eq!(read.newest().id(), ring.newest().id());
    }

    #[test]
    fn errors_name_the_line_and_show_nothing_of_it() {
        assert_eq!(KeyRing::parse("# only words\n\n").unwrap_err(), "it has no key");
        let ring = KeyRing::of(Key::generate().unwrap());
        let text = format!("{}hunter2:hunter2\n", *ring.text());
        assert_eq!(KeyRing::parse(&text).unwrap_err(), "line 4 is no key");
    }
}
