//! How secret values reach a task without being in its job: through Nomad Variables that only this
//! job may read.
//!
//! A template renders them into a file of the task's own `secrets` directory, from where the shell
//! before the task's program takes them into the environment. Where no shell is before it, a
//! template of Nomad's puts them there: Nomad then keeps them in its client's state, on the node's
//! disk. It parses what it renders for that line by line, a line at most 64 KiB long and with
//! JSON's escapes between double quotes. Either way the variable holds the value with the escapes
//! already made, so that every value survives, whatever characters it has.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::job::names::{GROUP, MAIN};

/// Nomad takes 65,536 bytes of keys and values in a variable; the rest is room for the keys.
const VARIABLE_BYTES: usize = 65_000;
/// The Go library that reads the rendered environment takes lines of less than 65,536 bytes.
const LINE_BYTES: usize = 65_000;
/// What the shell before a task's program reads, in the task's `secrets` directory.
const FILE: &str = "gofer-secrets.sh";
/// A task may read exactly these below `nomad/jobs/`: its job's, its group's and its own.
const VARIABLES: usize = 3;

/// The secret values of one execution, packed.
pub(crate) struct Packed {
    /// Path and items of each variable.
    pub(crate) variables: Vec<(String, BTreeMap<String, SecretString>)>,
    /// Entries for the task's `Templates`.
    pub(crate) templates: Vec<Value>,
    /// There is a file for the shell before the program.
    pub(crate) for_shell: bool,
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

/// The program that takes the values into the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    /// Nomad: nobody knows whether an image has a shell, unless the task's program is one.
    None,
    /// A shell that runs as the user that Nomad runs as, so that nobody else needs to read the
    /// file.
    Same,
    /// A shell that runs as another user than Nomad.
    Other,
}

/// Packs the values for the task, and those that its driver takes from the environment.
///
/// # Errors
/// Why they cannot reach the task, for its user.
pub(crate) fn pack(
    job_id: &str,
    values: &[(&str, &SecretString)],
    drivers: &[(&str, &SecretString)],
    shell: Shell,
) -> Result<Packed, String> {
    let mut boxes = Boxes::new(job_id);
    let (mut exports, mut lines) = (String::new(), String::new());
    for (name, value) in values {
        let value = checked(name, value)?;
        if shell == Shell::None {
            lines.push_str(&line(&mut boxes, name, value)?);
        } else {
            exports.push_str(&format!(
                "export {name}='{}'\n",
                boxes.put(name, &value.replace('\'', r"'\''"))?
            ));
        }
    }

    for (name, value) in drivers {
        lines.push_str(&line(&mut boxes, name, checked(name, value)?)?);
    }

    let mut templates = Vec::new();
    if !exports.is_empty() {
        let perms = if shell == Shell::Same { "0600" } else { "0644" };
        templates.push(template(&exports, &format!("secrets/{FILE}"), false, perms));
    }

    if !lines.is_empty() {
        templates.push(template(&lines, "secrets/gofer.env", true, "0600"));
    }

    Ok(Packed { variables: boxes.filled(), templates, for_shell: !exports.is_empty() })
}

/// What the shell does first.
pub(crate) fn load(packed: Option<&Packed>) -> String {
    let wanted = packed.is_some_and(|packed| packed.for_shell);
    if wanted { format!(". \"$NOMAD_SECRETS_DIR/{FILE}\"\n") } else { String::new() }
}

/// What a command beside a task does first, of which Nomad knows only the environment that it gave
/// the task itself.
pub(crate) const LOAD_IF_THERE: &str =
    "[ -r \"$NOMAD_SECRETS_DIR/gofer-secrets.sh\" ] && . \"$NOMAD_SECRETS_DIR/gofer-secrets.sh\"";

/// The value, if a task can have it under this name.
fn checked<'a>(name: &str, value: &'a SecretString) -> Result<&'a str, String> {
    let value = value.expose_secret();
    if value.contains('\0') {
        return Err(format!(
            "the value of variable `{name}` holds a NUL byte, which no program can be given"
        ));
    }
    if !is_name(name) {
        return Err(format!(
            "variable `{name}` holds a secret, and nomad takes such a name only of letters, digits \
             and `_`, not beginning with a digit"
        ));
    }
    Ok(value)
}

/// A line of an environment that Nomad reads.
fn line(boxes: &mut Boxes, name: &str, value: &str) -> Result<String, String> {
    let escaped = escaped(value);
    let length = escaped.expose_secret().len();
    if name.len() + length < LINE_BYTES {
        return Ok(format!("{name}=\"{}\"\n", boxes.put(name, escaped.expose_secret())?));
    }
    Err(format!(
        "variable `{name}` holds a secret of {length} bytes, escapes included, and nomad itself \
         gives a task up to {LINE_BYTES}: name a shell as its program, set `image_shell`, or put \
         it into an object"
    ))
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
            control if u32::from(control) < 0x20 => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)))
            }
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
                    "the secrets of the task do not fit into {VARIABLES} nomad variables of 64 \
                     KiB, at variable `{name}`"
                ));
            };

            let mut cut = text.len().min(free(self.used[at]));
            while !text.is_char_boundary(cut) {
                cut += 1;
            }

            let (piece, rest) = text.split_at(cut);
            expression.push_str(&format!(
                "{{{{ with nomadVar \"{}\" }}}}{{{{ .{key} }}}}{{{{ end }}}}",
                self.paths[at]
            ));
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
        let owned: Vec<(&str, SecretString)> =
            values.iter().map(|(name, value)| (*name, (*value).into())).collect();
        pack(
            "gofer-a",
            &owned.iter().map(|(name, value)| (*name, value)).collect::<Vec<_>>(),
            &[],
            shell,
        )
    }

    /// What a template would render.
    fn rendered(packed: &Packed, template: &Value) -> String {
        let mut text = template["EmbeddedTmpl"].as_str().unwrap().to_owned();
        for (path, items) in &packed.variables {
            for (key, piece) in items {
                let expression =
                    format!("{{{{ with nomadVar \"{path}\" }}}}{{{{ .{key} }}}}{{{{ end }}}}");
                text = text.replace(&expression, piece.expose_secret());
            }
        }
        text
    }

    #[test]
    fn values_are_in_the_variable_and_nowhere_else() {
        let packed =
            packed(&[("A", "canary-1\n\"x\" \\ ${y} {{z}}\u{1}é"), ("B", "")], Shell::None)
                .unwrap();
        assert_eq!(packed.variables.len(), 1);
        assert_eq!(packed.variables[0].0, "nomad/jobs/gofer-a/g/main");
        assert!(!packed.templates[0].to_string().contains("canary"), "{}", packed.templates[0]);
        assert!(!format!("{packed:?}").contains("canary"));
        let expected = "A=\"canary-1\\n\\\"x\\\" \\\\ ${y} {{z}}\\u0001é\"\nB=\"\"\n";
        assert_eq!(rendered(&packed, &packed.templates[0]), expected);
    }

    #[test]
    fn a_long_value_is_cut_over_variables_and_read_by_a_shell() {
        let long = "é'".repeat(25_000);
        let packed = packed(&[("A", &long), ("B", "short")], Shell::Same).unwrap();
        assert_eq!(packed.variables.len(), 3);

        for (path, items) in &packed.variables {
            let size: usize =
                items.iter().map(|(key, piece)| key.len() + piece.expose_secret().len()).sum();
            assert!(size <= 65_536, "{path}: {size}");
        }

        let [template] = &packed.templates[..] else { panic!("{:?}", packed.templates) };
        assert_eq!(
            rendered(&packed, template),
            format!("export A='{}'\nexport B='short'\n", long.replace('\'', r"'\''"))
        );
        assert_eq!(
            (&template["DestPath"], &template["Perms"]),
            (&json!("secrets/gofer-secrets.sh"), &json!("0600"))
        );
        assert_eq!(template["Envvars"], false, "nomad's client would keep it on its disk");
        assert!(load(Some(&packed)).contains(FILE) && LOAD_IF_THERE.contains(FILE));
    }

    #[test]
    fn a_shell_reads_every_value_back() {
        let value = "-n 'one' \"two\" \\n $HOME `date` !x\n\ttab é \u{1}\n\n";
        let packed = packed(&[("A", value), ("B", "")], Shell::Other).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), rendered(&packed, &packed.templates[0])).unwrap();
        let script = format!("{}exec \"$@\"", load(Some(&packed)));
        let mut shell = std::process::Command::new("/bin/sh");
        shell
            .args(["-c", &script, "sh", "sh", "-c", "printf %s \"$A$B\""])
            .env_clear()
            .env("NOMAD_SECRETS_DIR", dir.path());
        let output = shell.output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        assert_eq!(packed.templates[0]["Perms"], "0644", "somebody else's shell");
    }

    #[test]
    fn what_a_driver_takes_goes_through_nomad() {
        let secret = SecretString::from("canary");
        let packed = pack("gofer-a", &[("A", &secret)], &[("B", &secret)], Shell::Other).unwrap();
        let envvars: Vec<bool> =
            packed.templates.iter().map(|one| one["Envvars"] == true).collect();
        assert_eq!(envvars, [false, true]);
        assert_eq!(rendered(&packed, &packed.templates[1]), "B=\"canary\"\n");
    }

    #[test]
    fn what_cannot_reach_the_task_is_refused_without_its_value() {
        let long = "x".repeat(70_000);
        let (huge, nul) = ("x".repeat(200_000), "canary\0");
        for (name, value, shell, expected) in [
            ("A", long.as_str(), Shell::None, "70000 bytes, escapes included"),
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
