//! Interpolation in variable values: `secret{{key}}`, `global_secret{{key}}`,
//! `pipeline_object{{key}}`, `run_object{{key}}`. Anything else is plain text.

use std::fmt;

/// Where an interpolated value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A secret of the pipeline.
    Secret,
    /// A global secret that lists this namespace.
    GlobalSecret,
    /// An object kept with the pipeline.
    PipelineObject,
    /// An object kept with the run.
    RunObject,
}

impl Source {
    /// The word before the braces.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::GlobalSecret => "global_secret",
            Self::PipelineObject => "pipeline_object",
            Self::RunObject => "run_object",
        }
    }

    /// Whether the value must never be shown.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::GlobalSecret)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text as it is.
    Text(&'a str),
    /// To be replaced by the value under the key.
    Value(Source, &'a str),
}

/// Longest word first: `secret{{` is also the end of `global_secret{{`.
const SOURCES: [Source; 4] =
    [Source::GlobalSecret, Source::PipelineObject, Source::RunObject, Source::Secret];

/// Splits a variable's value. A `word{{` without `}}` is plain text: scripts contain all sorts of
/// braces.
///
/// Each byte is looked at a fixed number of times. The word is asked for first, so a bare `{{`
/// costs no search for its `}}`; a search that finds none is the last one.
#[must_use]
pub fn parse(value: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut text_start = 0;
    let mut search_from = 0;

    while let Some(open) = value[search_from..].find("{{").map(|at| at + search_from) {
        let Some(source) =
            SOURCES.into_iter().find(|source| value[text_start..open].ends_with(source.word()))
        else {
            search_from = open + 2;
            continue;
        };

        let Some(close) = value[open + 2..].find("}}").map(|at| at + open + 2) else { break };

        let word_start = open - source.word().len();
        if word_start > text_start {
            pieces.push(Piece::Text(&value[text_start..word_start]));
        }

        pieces.push(Piece::Value(source, value[open + 2..close].trim()));
        text_start = close + 2;
        search_from = text_start;
    }

    if text_start < value.len() || pieces.is_empty() {
        pieces.push(Piece::Text(&value[text_start..]));
    }

    pieces
}

/// The interpolations of a value, in order.
pub fn references(value: &str) -> impl Iterator<Item = (Source, &str)> {
    parse(value).into_iter().filter_map(|piece| match piece {
        Piece::Value(source, key) => Some((source, key)),
        Piece::Text(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_text_and_values() {
        assert_eq!(parse("plain"), [Piece::Text("plain")]);
        assert_eq!(parse(""), [Piece::Text("")]);
        assert_eq!(
            parse("postgres://u:secret{{db/password}}@h/run_object{{ name }}"),
            [
                Piece::Text("postgres://u:"),
                Piece::Value(Source::Secret, "db/password"),
                Piece::Text("@h/"),
                Piece::Value(Source::RunObject, "name"),
            ]
        );
        assert_eq!(parse("global_secret{{k}}"), [Piece::Value(Source::GlobalSecret, "k")]);
        assert_eq!(
            parse("${{ github }} secret{{open"),
            [Piece::Text("${{ github }} secret{{open")]
        );
        assert_eq!(references("a{{b}}secret{{c}}").collect::<Vec<_>>(), [(Source::Secret, "c")]);
        assert_eq!(references("secret{{{{a}}}}").collect::<Vec<_>>(), [(Source::Secret, "{{a")]);
    }

    /// The square of eight times the text would be sixty-four times the work.
    #[test]
    fn the_work_grows_with_the_text_and_no_faster() {
        for unit in ["{{", "secret{{", "{{}}", "secret{{}}", "secret{{a}", "global_secret{{ "] {
            let took = |bytes: usize| {
                let text = unit.repeat(bytes / unit.len());
                let once = || {
                    let begun = std::time::Instant::now();
                    std::hint::black_box(parse(&text));
                    begun.elapsed()
                };
                (0..5).map(|_| once()).min().unwrap()
            };

            let (short, long) = (took(16 << 10), took(128 << 10));
            assert!(
                long < short * 24 + std::time::Duration::from_millis(50),
                "`{unit}`: {short:?}, 8 times: {long:?}"
            );
        }
    }
}
