//! The paths that a file names: what it imports, and what its code names in full.

/// What a text names, its tests and comments left out.
pub(crate) struct Imports {
    /// `use …`.
    pub(crate) private: Vec<String>,
    /// `pub use …`, as far as whole crates or parts of one see it.
    pub(crate) public: Vec<String>,
    /// `crate::…` and `super::…` between them.
    pub(crate) in_code: Vec<String>,
}

impl Imports {
    pub(crate) fn of(text: &str) -> Self {
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let code = lines.collect::<Vec<_>>().join("\n");
        let (mut private, mut public, mut rest) = (Vec::new(), Vec::new(), String::new());

        for statement in code.split_inclusive(';') {
            let Some((before, is_public, tree)) = declaration(statement) else {
                rest.push_str(statement);
                continue;
            };

            rest.push_str(before);
            let tree = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            let paths = if is_public { &mut public } else { &mut private };
            paths.extend(leaves("", &tree));
        }

        let in_code = [paths_in(&rest, "crate::"), paths_in(&rest, "super::")].concat();
        Self { private, public, in_code }
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.private.iter().chain(&self.public).chain(&self.in_code)
    }
}

/// The paths that a `use` tree names: `a::{b, c::d}` names `a::b` and `a::c::d`.
fn leaves(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return if tree.is_empty() { Vec::new() } else { vec![format!("{prefix}{path}")] };
    };

    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let prefix = format!("{prefix}{before}");
    let (mut depth, mut branches) = (0, vec![String::new()]);
    for char in inner.chars() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(String::new());
                continue;
            }
            _ => {}
        }
        branches.last_mut().expect("there is one from the start").push(char);
    }

    branches.iter().flat_map(|branch| leaves(&prefix, branch)).collect()
}

/// The paths in code that begin like this one, such as `crate::`.
fn paths_in(code: &str, beginning: &str) -> Vec<String> {
    let is_part_of_name = |char: char| char.is_alphanumeric() || char == '_';
    let begins = code.match_indices(beginning);
    let begins = begins
        .filter(|(at, _)| !code[..*at].ends_with(|char| is_part_of_name(char) || char == ':'));
    let path = |at: usize| {
        let rest = &code[at..];
        let end = rest.find(|char| !is_part_of_name(char) && char != ':').unwrap_or(rest.len());
        rest[..end].trim_end_matches(':').to_owned()
    };
    begins.map(|(at, _)| path(at)).collect()
}

/// The declaration that a statement ends with: what stands before it, whether it passes on what it
/// names, and its tree.
fn declaration(statement: &str) -> Option<(&str, bool, &str)> {
    let statement = statement.trim_end_matches(';');
    [("use ", false), ("pub use ", true), ("pub(crate) use ", true), ("pub(super) use ", true)]
        .into_iter()
        .find_map(|(word, is_public)| {
            let indent = statement.len() - statement.trim_start().len();
            let at = match statement.trim_start().starts_with(word) {
                true => indent,
                false => statement.rfind(&format!("\n{word}"))? + 1,
            };
            Some((&statement[..at], is_public, &statement[at + word.len()..]))
        })
}

#[test]
fn groups_and_paths_in_code_are_found() {
    let text = "use crate::{a::{self, B}, c};\nuse super::d::{E, F};\nfn f() { crate::g::h(); }";
    let found = Imports::of(text);
    let expected = ["crate::a::self", "crate::a::B", "crate::c", "super::d::E", "super::d::F"];
    assert_eq!(found.private, expected);
    assert_eq!(found.in_code, ["crate::g::h"]);
}
