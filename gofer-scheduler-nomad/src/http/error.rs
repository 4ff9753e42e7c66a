//! From what Nomad answers to [`BackendError`].

use gofer_core::{BackendError, ErrorKind};

/// Longest part of an answer's text that a message repeats.
const MAX_SHOWN_CHARS: usize = 600;

/// Why a call did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An agent answered, with another status than 2xx. Nomad's errors are plain text.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The text.
        body: String,
    },
    /// No agent answered.
    Transport(reqwest::Error),
    /// The answer is not what Nomad is known to answer.
    Unreadable(String),
    /// The call could not even be made.
    Local(BackendError),
    /// The time for the call and its repetitions is over.
    Timeout,
}

impl Failure {
    /// Whether the same call may succeed at once elsewhere, or soon here.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::RateLimited | ErrorKind::Timeout)
            && !self.is_out_of_reach()
    }

    /// No server has a connection to the client agent that was asked for, now. Every server says
    /// so, and it says nothing of what is there.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Refused { body, .. } if body.contains("No path to node"))
    }

    /// A server, or the client agent of its node, does not know the allocation.
    pub(crate) fn is_unknown_allocation(&self) -> bool {
        matches!(self, Self::Refused { body, .. } if body.contains("Unknown allocation"))
    }

    /// A create-only registration met a job of that id.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { body, .. } if body.contains("Enforcing job modify index"))
    }

    /// What Nomad finds wrong with a job, when that is it.
    pub(crate) fn validation(&self) -> Option<String> {
        match self {
            Self::Refused { body, .. }
                if body.contains("error occurred:") || body.contains("errors occurred:") =>
            {
                Some(format!("nomad refuses the job: {}", shown(body)))
            }
            _ => None,
        }
    }

    /// What was asked for does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Nomad refuses the token or what it may do.
    pub(crate) fn is_denied(&self) -> bool {
        self.kind() == ErrorKind::Denied
    }

    /// Nomad does not know the token at all.
    pub(crate) fn is_unknown_token(&self) -> bool {
        let words = ["ACL token not found", "ACL token expired"];
        matches!(self, Self::Refused { body, .. } if words.iter().any(|text| body.contains(text)))
    }

    /// How the caller should act on it.
    ///
    /// Nomad answers 500 to nearly everything, so the text decides.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Transport(error) if error.is_builder() => ErrorKind::Internal,
            Self::Transport(error) if error.is_timeout() => ErrorKind::Timeout,
            Self::Transport(_) => ErrorKind::Unavailable,
            Self::Timeout => ErrorKind::Timeout,
            Self::Unreadable(_) => ErrorKind::Internal,
            Self::Local(error) => error.kind,
            Self::Refused { status, body } => kind_of(*status, body),
        }
    }

    /// With what was being done, such as `the job could not be registered`.
    pub(crate) fn backend(self, doing: impl Into<String>) -> BackendError {
        let (kind, doing) = (self.kind(), doing.into());
        let error = |text: String| BackendError::new(kind, format!("{doing}: {text}"));
        match self {
            Self::Transport(cause) => {
                BackendError::new(kind, doing).with_source(cause.without_url())
            }
            Self::Timeout => error("nomad did not answer in time".to_owned()),
            Self::Unreadable(text) => error(format!("nomad's answer cannot be read: {text}")),
            Self::Local(cause) => error(cause.chain()),
            Self::Refused { status, body } => {
                let hint = match kind {
                    ErrorKind::Denied => {
                        "; give gofer's token the policy in `config/nomad/gofer-policy.hcl`"
                    }
                    _ => "",
                };
                error(format!("nomad answers {status} `{}`{hint}", shown(&body)))
            }
        }
    }
}

fn kind_of(status: u16, body: &str) -> ErrorKind {
    let says = |texts: &[&str]| texts.iter().any(|text| body.contains(text));
    if status == 403 || says(&["Permission denied", "ACL token not found", "ACL token expired"]) {
        return ErrorKind::Denied;
    }

    if status == 429 {
        return ErrorKind::RateLimited;
    }

    if says(&[
        "No cluster leader",
        "Not ready to serve consistent reads",
        "No path to region",
        "No path to node",
        "leadership lost",
    ]) {
        return ErrorKind::Unavailable;
    }

    if says(&[
        "error occurred:",
        "errors occurred:",
        "nonexistent namespace",
        "nonexistent node pool",
    ]) {
        return ErrorKind::Invalid;
    }

    if says(&["Enforcing job modify index"]) {
        return ErrorKind::AlreadyExists;
    }

    if says(&["Unknown allocation", "not found on client", "No such file", "no such file"]) {
        return ErrorKind::NotFound;
    }

    match status {
        400 | 405 | 413 => ErrorKind::Invalid,
        // Something in front of the agents has no such page, which says nothing of Nomad.
        404 if body.contains("page not found") || body.trim_start().starts_with('<') => {
            ErrorKind::Unavailable
        }
        404 => ErrorKind::NotFound,
        409 => ErrorKind::AlreadyExists,
        // `rpc error`, `EOF`, a proxy in front of the agents, and whatever a later version says:
        // worth another try.
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

/// One line, and not too long.
fn shown(body: &str) -> String {
    let line: Vec<&str> = body.split_whitespace().collect();
    let line = line.join(" ");
    match line.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Failure {
        Failure::Refused { status, body: body.to_owned() }
    }

    #[test]
    fn the_text_decides_where_the_status_does_not() {
        let cases = [
            (500, "No cluster leader", ErrorKind::Unavailable),
            (500, "Not ready to serve consistent reads", ErrorKind::Unavailable),
            (500, "rpc error: EOF", ErrorKind::Unavailable),
            (500, "No path to region", ErrorKind::Unavailable),
            (404, "No path to node", ErrorKind::Unavailable),
            (404, "404 page not found", ErrorKind::Unavailable),
            (404, "<html><title>Not Found</title></html>", ErrorKind::Unavailable),
            (404, "open /alloc/logs: no such file or directory", ErrorKind::NotFound),
            (500, "Enforcing job modify index 0: job already exists", ErrorKind::AlreadyExists),
            (500, "1 error occurred:\n\t* Missing job datacenters\n", ErrorKind::Invalid),
            (500, "job \"x\" is in nonexistent namespace \"y\"", ErrorKind::Invalid),
            (403, "Permission denied", ErrorKind::Denied),
            (500, "rpc error: Permission denied", ErrorKind::Denied),
            (403, "ACL token not found", ErrorKind::Denied),
            (404, "job not found", ErrorKind::NotFound),
            (500, "Unknown allocation \"1\"", ErrorKind::NotFound),
            (400, "Failed to parse job", ErrorKind::Invalid),
            (429, "Your IP is issuing too many concurrent connections", ErrorKind::RateLimited),
            (502, "bad gateway", ErrorKind::Unavailable),
        ];
        for (status, body, expected) in cases {
            assert_eq!(refused(status, body).kind(), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_node_out_of_reach_is_not_asked_again_at_once() {
        let (node, leader) = (refused(404, "No path to node"), refused(500, "No cluster leader"));
        assert_eq!((node.is_out_of_reach(), node.is_transient()), (true, false));
        assert_eq!((leader.is_out_of_reach(), leader.is_transient()), (false, true));
    }

    #[test]
    fn messages_are_one_line_and_name_the_next_step() {
        let error = refused(403, "Permission denied\n").backend("the job could not be registered");
        assert_eq!(
            error.message,
            "the job could not be registered: nomad answers 403 `Permission denied`; give gofer's \
             token the policy in `config/nomad/gofer-policy.hcl`"
        );
        assert!(
            refused(500, &"x".repeat(10_000)).backend("it failed").message.chars().count() < 700
        );
    }
}
