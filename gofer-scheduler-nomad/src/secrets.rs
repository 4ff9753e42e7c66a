//! How secret values reach a task without being in its job: through Nomad Variables that only this job may read.
//!
//! A template reads them into the environment. Nomad parses what it renders line by line, a line at most 64 KiB long and with
//! JSON's escapes between double quotes, so the variable holds the value with these escapes already made: this way every value
//! survives, whatever characters it has. A value too long for a line goes into a file of the task's own `secrets`
//! directory, from where a shell puts it into the environment before it becomes the task's program.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::jobspec::{GROUP, MAIN};

/// Nomad takes 65,536 bytes of keys and values in a variable; the rest is room for the keys.
const VARIABLE_BYTES: usize = 65_000;
/// The Go library that reads the rendered environment takes lines of less than 65,536 bytes.
const LINE_BYTES: usize = 65_000;
/// A task may read exactly these below `nomad/jobs/`: its job's, its group's and its own.
const VARIABLES: usize = 3;

/// The secret values of one execution, packed.
pub(crate) struct Packed {
    /// Path and items of each variable.
    pub(crate) variables: Vec<(String, BTreeMap<String, SecretString>)>,
    /// Entries for the task's `Templates`.
    pub(crate) templates: Vec<Value>,
    /// Variables that a shell reads from a file, and the file's name in the `secrets` directory.
    pub(crate) from_files: Vec<(String, String)>,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<&str> = self.variables.iter().map(|(path, _)| path.as_str()).collect();
        f.debug_struct("Packed").field("variables", &paths).finish_non_exhaustive()
    }
}

/// The paths of the variables that an execution may have.
pub(crate) fn paths(job_id: &str) -> [String; VARIABLES] {
    let job = format!("nomad/jobs/{job_id}");
    [format!("{job}/{GROUP}/{MAIN}"), format!("{job}/{GROUP}"), job]
}

/// The job whose execution a variable belongs to.
pub(crate) fn job_of(path: &str) -> Option<&str> {
    path.strip_prefix("nomad/jobs/").map(|rest| rest.split('/').next().unwrap_or(rest))
}

/// How a value that is too long for a line reaches the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    /// Not at all: nobody knows whether an image has a shell, unless the task's program is one.
    None,
    /// Through `/bin/sh`, which runs as the user that Nomad runs as, so that nobody else needs to read the file.
    Same,
    /// Through `/bin/sh`, which runs as another user than Nomad.
    Other,
}

/// Packs the values.
///
/// # Errors
/// Why they cannot reach the task, for its user.
pub(crate) fn pack(job_id: &str, values: &[(&str, &SecretString)], shell: Shell) -> Result<Packed, String> {
    let mut boxes = Boxes::new(job_id);
    let (mut lines, mut templates, mut from_files) = (String::new(), Vec::new(), Vec::new());
    for (name, value) in values {
        let value = value.expose_secret();
        if value.contains('\0') {
            return Err(format!("the value of variable `{name}` holds a NUL byte, which no program can be given"));
        }
        if !is_name(name) {
            return Err(format!(
                "variable `{name}` holds a secret, and nomad takes such a name only of letters, digits and `_`, not \
                 beginning with a digit"
            ));
        }
        let escaped = escaped(value);
        if name.len() + escaped.expose_secret().len() < LINE_BYTES {
            lines.push_str(&format!("{name}=\"{}\"\n", boxes.put(name, escaped.expose_secret())?));
        } else if shell != Shell::None {
            let file = format!("gofer-{}", from_files.len());
            let perms = if shell == Shell::Same { "0600" } else { "0644" };
            templates.push(template(&boxes.put(name, value)?, &format!("secrets/{file}"), false, perms));
            from_files.push(((*name).to_owned(), file));
        } else {
            return Err(format!(
                "variable `{name}` holds a secret of {} bytes, and nomad gives a container secrets up to {LINE_BYTES} \
                 bytes unless a shell is its program (or `image_shell` is set); put it into an object, or let the task read it itself",
                value.len()
            ));
        }
    }
    if !lines.is_empty() {
        templates.push(template(&lines, "secrets/gofer.env", true, "0600"));
    }
    Ok(Packed { variables: boxes.filled(), templates, from_files })
}

/// A script that reads the files into the environment and becomes the program in its arguments.
pub(crate) fn shell_script(from_files: &[(String, String)]) -> String {
    let mut script = String::new();
    for (name, file) in from_files {
        // The dot keeps the shell from cutting newlines off the end.
        script.push_str(&format!(
            "{name}=$(cat \"$NOMAD_SECRETS_DIR/{file}\"; echo .); {name}=${{{name}%.}}; export {name}; "
        ));
    }
    script.push_str("exec \"$@\"");
    script
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    starts && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// With JSON's escapes for what would end the line or the quotes.
fn escaped(value: &str) -> SecretString {
    let mut out = String::with_capacity(value.len() + value.len() / 8);
    for char in value.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.into()
}

fn template(text: &str, destination: &str, env: bool, perms: &str) -> Value {
    json!({
        "EmbeddedTmpl": text, "DestPath": destination, "Envvars": env, "ChangeMode": "noop", "Once": true,
        "ErrMissingKey": true, "Perms": perms, "LeftDelim": "{{", "RightDelim": "}}",
    })
}

/// The variables being filled, one after the other.
struct Boxes {
    paths: [String; VARIABLES],
    items: [BTreeMap<String, SecretString>; VARIABLES],
    used: [usize; VARIABLES],
    pieces: usize,
}

impl Boxes {
    fn new(job_id: &str) -> Self {
        Self { paths: paths(job_id), items: Default::default(), used: [0; VARIABLES], pieces: 0 }
    }

    /// Stores a text, cut where a variable is full; what a template writes to get it back.
    fn put(&mut self, name: &str, mut text: &str) -> Result<String, String> {
        let mut expression = String::new();
        while !text.is_empty() {
            let key = format!("v{}", self.pieces);
            // Room for the key and a character that would be cut.
            let free = |used: usize| VARIABLE_BYTES.saturating_sub(used + key.len() + 4);
            let Some(at) = (0..VARIABLES).find(|at| free(self.used[*at]) > 0) else {
                return Err(format!(
                    "the secrets of the task do not fit into {VARIABLES} nomad variables of 64 KiB, at variable `{name}`"
                ));
            };
            let mut cut = text.len().min(free(self.used[at]));
            while !text.is_char_boundary(cut) {
                cut += 1;
            }
            let (piece, rest) = text.split_at(cut);
            expression
                .push_str(&format!("{{{{ with nomadVar \"{}\" }}}}{{{{ .{key} }}}}{{{{ end }}}}", self.paths[at]));
            self.used[at] += key.len() + piece.len();
            self.items[at].insert(key, piece.into());
            self.pieces += 1;
            text = rest;
        }
        Ok(expression)
    }

    fn filled(self) -> Vec<(String, BTreeMap<String, SecretString>)> {
        self.paths.into_iter().zip(self.items).filter(|(_, items)| !items.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(values: &[(&str, &str)], shell: Shell) -> Result<Packed, String> {
        let owned: Vec<(&str, SecretString)> = values.iter().map(|(name, value)| (*name, (*value).into())).collect();
        pack("gofer-a", &owned.iter().map(|(name, value)| (*name, value)).collect::<Vec<_>>(), shell)
    }

    /// What a template would render.
    fn rendered(packed: &Packed, template: &Value) -> String {
        let mut text = template["EmbeddedTmpl"].as_str().unwrap().to_owned();
        for (path, items) in &packed.variables {
            for (key, piece) in items {
                let expression = format!("{{{{ with nomadVar \"{path}\" }}}}{{{{ .{key} }}}}{{{{ end }}}}");
                text = text.replace(&expression, piece.expose_secret());
            }
        }
        text
    }

    #[test]
    fn values_are_in_the_variable_and_nowhere_else() {
        let packed = packed(&[("A", "canary-1\n\"x\" \\ ${y} {{z}}\u{1}é"), ("B", "")], Shell::None).unwrap();
        assert_eq!(packed.variables.len(), 1);
        assert_eq!(packed.variables[0].0, "nomad/jobs/gofer-a/g/main");
        assert!(!packed.templates[0].to_string().contains("canary"), "{}", packed.templates[0]);
        assert!(!format!("{packed:?}").contains("canary"));
        let expected = "A=\"canary-1\\n\\\"x\\\" \\\\ ${y} {{z}}\\u0001é\"\nB=\"\"\n";
        assert_eq!(rendered(&packed, &packed.templates[0]), expected);
    }

    #[test]
    fn a_long_value_is_cut_over_variables_and_read_by_a_shell() {
        let long = "é".repeat(40_000);
        let packed = packed(&[("A", &long), ("B", "short")], Shell::Same).unwrap();
        assert_eq!(packed.variables.len(), 2);
        for (path, items) in &packed.variables {
            let size: usize = items.iter().map(|(key, piece)| key.len() + piece.expose_secret().len()).sum();
            assert!(size <= 65_536, "{path}: {size}");
        }
        assert_eq!(rendered(&packed, &packed.templates[0]), long);
        assert_eq!(packed.templates[0]["DestPath"], "secrets/gofer-0");
        assert!(packed.templates.iter().all(|template| template["Perms"] == "0600"), "{:?}", packed.templates);
        assert_eq!(packed.from_files, [("A".to_owned(), "gofer-0".to_owned())]);
        let script = shell_script(&packed.from_files);
        assert_eq!(script, "A=$(cat \"$NOMAD_SECRETS_DIR/gofer-0\"; echo .); A=${A%.}; export A; exec \"$@\"");
    }

    #[test]
    fn what_cannot_reach_the_task_is_refused_without_its_value() {
        let long = "x".repeat(70_000);
        let (huge, nul) = ("x".repeat(200_000), "canary\0");
        for (name, value, shell, expected) in [
            ("A", long.as_str(), Shell::None, "70000 bytes"),
            ("A", huge.as_str(), Shell::Other, "do not fit"),
            ("A", nul, Shell::Same, "NUL byte"),
            ("A-B", "canary", Shell::Same, "`A-B`"),
            ("1A", "canary", Shell::Same, "`1A`"),
        ] {
            let error = packed(&[(name, value)], shell).unwrap_err();
            assert!(error.contains(expected) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_variable_tells_its_job() {
        for path in paths("gofer-a") {
            assert_eq!(job_of(&path), Some("gofer-a"));
        }
        assert_eq!(job_of("other/gofer-a"), None);
    }
}
