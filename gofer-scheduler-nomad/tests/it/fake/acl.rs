//! Who may do what. Without any token, ACLs are off.

use super::Inner;
use super::http::{Call, Failure};
use super::state::Token;

/// Whether the call's token allows it, in the words of the policy language.
pub(super) fn check(inner: &Inner, call: &Call) -> Result<(), Failure> {
    let enough = |has: &[String]| {
        needed(call)
            .into_iter()
            .any(|needed| needed.is_empty() || has.iter().any(|has| has == needed))
    };
    match rights(inner, call)? {
        None => Ok(()),
        Some(has) if enough(&has) => Ok(()),
        Some(_) => Err(Failure::new(403, "Permission denied")),
    }
}

/// Whether the call's token has this right.
pub(super) fn has(inner: &Inner, call: &Call, right: &str) -> bool {
    rights(inner, call)
        .is_ok_and(|rights| rights.is_none_or(|rights| rights.iter().any(|has| has == right)))
}

/// The rights of the call's token; `None` is all of them.
fn rights(inner: &Inner, call: &Call) -> Result<Option<Vec<String>>, Failure> {
    let token = inner.read(|state| {
        if state.tokens.is_empty() {
            return Some(Token::Management);
        }
        state.tokens.get(&call.token).cloned()
    });
    match token {
        None if call.token.is_empty() => Ok(Some(Vec::new())),
        None => Err(Failure::new(403, "ACL token not found")),
        Some(Token::Management) => Ok(None),
        Some(Token::Client(capabilities)) => Ok(Some(capabilities)),
    }
}

/// One of these is enough.
fn needed(call: &Call) -> Vec<&'static str> {
    let read = call.method == "GET";
    let path = call.path.trim_start_matches("/v1/");
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));

    match first {
        // The public keys.
        "" | "status" => vec![""],
        "agent" if rest == "health" => vec![""],
        "agent" => vec!["agent:read"],
        "nodes" | "node" => vec!["node:read"],
        "jobs" if rest == "parse" => vec!["parse-job", "submit-job"],
        "jobs" if read => vec!["list-jobs"],
        "jobs" if rest == "statuses" => vec!["read-job"],
        "jobs" => vec!["submit-job", "register-job"],
        "job" if rest.ends_with("/plan") => vec!["submit-job"],
        "job" if call.method == "DELETE" => vec!["submit-job", "deregister-job"],
        "job" | "validate" | "evaluation" | "evaluations" | "allocations" => vec!["read-job"],
        "allocation" if read => vec!["read-job"],
        "allocation" => vec!["alloc-lifecycle"],
        "client" if rest.starts_with("fs/logs") => vec!["read-logs", "read-fs"],
        "client" if rest.starts_with("fs") => vec!["read-fs"],
        "client" => vec!["alloc-lifecycle"],
        "event" => vec!["read-job"],
        "vars" => vec!["variables:list"],
        "var" if read => vec!["variables:read"],
        "var" if call.method == "DELETE" => vec!["variables:destroy"],
        "var" => vec!["variables:write"],
        "namespaces" | "namespace" => vec!["read-job", "list-jobs"],
        _ => vec!["management"],
    }
}
