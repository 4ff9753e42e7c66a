//! Templates, as far as Gofer uses them: `{{ with nomadVar "path" }}`, `{{ .item }}` and
//! `{{ end }}`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use super::Inner;
use super::state::{State, text};

/// Of one line in a file of variables; the parser's buffer is no larger.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Renders all templates of a task to its files, and returns the variables in those that are for
/// the environment. Waits for variables that do not exist.
pub(super) async fn environment(
    inner: &Inner,
    job: &Value,
    task: &Value,
    dir: PathBuf,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Vec::new();
    for template in task["Templates"].as_array().into_iter().flatten() {
        let source = text(&template["EmbeddedTmpl"]);
        let rendered = inner.wait_for(|state| {
            let hidden = inner.fault(|faults| faults.hide_variables);
            if hidden { None } else { render(state, job, task, &source).transpose() }
        });

        let rendered = rendered.await?;
        let path = dir.join(text(&task["Name"])).join(text(&template["DestPath"]));
        std::fs::create_dir_all(path.parent().expect("a directory"))
            .expect("a directory of the allocation");
        std::fs::write(&path, &rendered).expect("write a template's file");

        let mode = u32::from_str_radix(template["Perms"].as_str().unwrap_or("0644"), 8)
            .expect("an octal mode");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set a file's mode");

        if template["Envvars"] == true {
            env.extend(variables(&rendered)?);
        }
    }

    Ok(env)
}

/// The text, or nothing while a variable is missing.
fn render(
    state: &State,
    job: &Value,
    task: &Value,
    source: &str,
) -> Result<Option<String>, String> {
    let mut result = String::new();
    let mut scope: Option<&Value> = None;
    let mut rest = source;

    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or("unclosed action")?;
        result.push_str(before);
        rest = after;
        let action = action.trim();

        if action == "end" {
            scope = None;
        } else if let Some(item) = action.strip_prefix('.') {
            let value = scope.and_then(|items| items[item].as_str());
            result.push_str(value.ok_or_else(|| format!("map has no entry for key {item:?}"))?);
        } else if let Some(path) = action.strip_prefix("with nomadVar ") {
            let path = path.trim().trim_matches('"').to_owned();
            if !readable(job, task, &path) {
                return Ok(None);
            }
            let Some(variable) = state.variables.get(&(text(&job["Namespace"]), path)) else {
                return Ok(None);
            };
            scope = Some(&variable["Items"]);
        } else {
            return Err(format!("the fake does not know the action `{action}`"));
        }
    }

    Ok(Some(result + rest))
}

/// A task may read the variables named after its job, its group and itself, and no others.
fn readable(job: &Value, task: &Value, path: &str) -> bool {
    let job_path = format!("nomad/jobs/{}", text(&job["ID"]));
    let group_path = format!("{job_path}/{}", text(&job["TaskGroups"][0]["Name"]));
    let task_path = format!("{group_path}/{}", text(&task["Name"]));
    ["nomad/jobs", &job_path, &group_path, &task_path].contains(&path)
}

/// Reads `NAME="value"` lines, with the escapes of JSON inside the quotes.
fn variables(file: &str) -> Result<Vec<(String, String)>, String> {
    let mut env = Vec::new();
    for line in file.lines().filter(|line| !line.trim().is_empty()) {
        if line.len() >= MAX_LINE_BYTES {
            return Err("error reading: bufio.Scanner: token too long".to_owned());
        }

        let (name, value) = line.trim().split_once('=').ok_or("missing =")?;
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_./".contains(&byte);
        let first = name.bytes().next().ok_or("empty key")?;
        if !name.bytes().all(valid) || !(first.is_ascii_alphabetic() || first == b'_') {
            return Err(format!("key characters must be [A-Za-z0-9/_.] but found {name:?}"));
        }

        let value = if value.starts_with('"') {
            serde_json::from_str(value).map_err(|error| error.to_string())?
        } else {
            value.to_owned()
        };

        env.push((name.to_owned(), value));
    }

    Ok(env)
}
