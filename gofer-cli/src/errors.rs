//! Why a command did not succeed: what stderr says, and the exit code.

use std::error::Error;
use std::fmt::Write as _;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::certificates::certificate_problem;
use crate::terminal::{printable, printable_lines};

/// The exit codes; `--help` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// The run that was followed failed or was cancelled.
    RunFailed = 1,
    /// Wrong use: bad arguments, files or specs.
    Usage = 2,
    /// The server is not there or did not answer properly.
    Unreachable = 3,
    /// The server, or Gofer itself, refused.
    Refused = 4,
    /// Ended by SIGHUP, as shells count it: the terminal was closed.
    HungUp = 129,
    /// Ended by SIGINT: Ctrl-C.
    Interrupted = 130,
    /// Ended by SIGQUIT.
    Quit = 131,
    /// Ended by SIGTERM.
    Terminated = 143,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process exits with.
    pub(crate) exit: Exit,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
    /// The server refuses who calls, not what is asked for.
    lacks_token: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None, lacks_token: false }
    }

    /// The user's input is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The server is not there.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message).hint(UNREACHABLE_HINT)
    }

    /// What was asked for is refused.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// Something is missing, and with what that ends.
    pub(crate) fn incomplete(exit: Exit, message: impl Into<String>) -> Self {
        Self::new(exit, message)
            .hint("what is missing is said above; the same command may show it later")
    }

    /// Adds a line of its own under the message.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Says what to do next, instead of an earlier hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the server refuses who calls, not what is asked for.
    pub(crate) fn lacks_token(&self) -> bool {
        self.lacks_token
    }

    /// Says what was looked for in place of a token that the server misses.
    pub(crate) fn without_token(mut self, sought: &str) -> Self {
        if self.lacks_token {
            self.details.push(sought.to_owned());
        }
        self
    }

    /// The text for stderr, with a trailing newline.
    pub(crate) fn render(&self) -> String {
        // Much of it comes from the server, and all of it may go to a terminal.
        let mut text = format!("error: {}\n", printable_lines(&self.message));
        for detail in &self.details {
            for line in detail.lines() {
                let _ = writeln!(text, "  {}", printable(line));
            }
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

const UNREACHABLE_HINT: &str =
    "start one with `gofer server`, or name another one with `--addr` or `GOFER_API_ADDR`";
const LATER_HINT: &str = "the same call may succeed later; the server's log says more";

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = if status.message().is_empty() {
            status.code().description()
        } else {
            status.message()
        };

        let mut failure = Self::new(exit_of(status.code()), message);
        failure.lacks_token = status.code() == Code::Unauthenticated;

        // What has a reason comes from the server itself: it is there, and says why it cannot.
        let answered = status.get_details_error_info().is_some();
        if failure.exit == Exit::Unreachable && !answered {
            failure.message = format!("the server did not answer: {message}");
            failure.details.extend(transport_cause(&status));
        }

        let violations = status
            .get_details_bad_request()
            .map(|request| request.field_violations)
            .unwrap_or_default();

        match violations.as_slice() {
            [] => {}
            // The message is the violations again, run together.
            [violation] => failure.message = violation_line(violation),
            violations => {
                failure.message =
                    format!("the input breaks {} rules; there may be more", violations.len());
                failure.details.extend(violations.iter().map(violation_line));
            }
        }

        // With TLS 1.3 a server refuses a client's certificate only after the handshake, in place
        // of the first answer.
        let certificate = std::error::Error::source(&status).and_then(certificate_problem);
        let hint = match status.code() {
            _ if certificate.is_some() => certificate,
            Code::Unavailable if answered => Some(LATER_HINT),
            code => hint_of(code),
        };

        failure.hint = hint.map(str::to_owned);
        failure
    }
}

fn violation_line(violation: &tonic_types::FieldViolation) -> String {
    match violation.field.as_str() {
        "" => violation.description.clone(),
        field => format!("{}: {}", words(field), violation.description),
    }
}

/// A field as a person calls it. Those of a spec are the user's own; the others are named by the
/// contract, which only programs know.
fn words(field: &str) -> String {
    let is_of_spec =
        field.starts_with("spec") || field.contains(['[', '.']) && !field.starts_with("header.");
    if is_of_spec {
        field.to_owned()
    } else {
        field.trim_start_matches("header.").replace('_', " ")
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::InvalidArgument => Exit::Usage,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss => Exit::Unreachable,
        Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => Exit::Refused,
    }
}

fn hint_of(code: Code) -> Option<&'static str> {
    match code {
        Code::Unavailable => Some(UNREACHABLE_HINT),
        Code::Unauthenticated => Some(
            "pass a token with `--token-file FILE` or `GOFER_API_TOKEN`; a new server's first \
             token comes from `gofer token bootstrap`, and a development server's is in the file \
             `token` of its data directory",
        ),
        Code::PermissionDenied => Some("`gofer token whoami` shows what your token may do"),
        Code::Aborted => Some("somebody else was faster; look at the present state and try again"),
        Code::Unimplemented => {
            Some("this server cannot do that; `gofer system info` shows its version")
        }
        Code::Internal | Code::Unknown | Code::DataLoss => Some("the server's log says more"),
        _ => None,
    }
}

/// The innermost cause of a status that the transport made, which tonic's own message leaves out.
fn transport_cause(status: &Status) -> Option<String> {
    let source = status.source()?;
    Some(innermost(source))
}

/// The last error of a chain: the one that says what happened.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The whole chain, each cause once.
#[cfg(feature = "server")]
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            let _ = write!(text, ": {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn violations_are_lines_of_their_own() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("tasks[0].id", "`A B` has a space");
        let one = Failure::from(Status::with_error_details(
            Code::InvalidArgument,
            "text",
            details.clone(),
        ));

        assert_eq!(
            (one.exit, one.render().as_str()),
            (Exit::Usage, "error: tasks[0].id: `A B` has a space\n")
        );
        details.add_bad_request_violation("name", "is empty");

        let two = Failure::from(Status::with_error_details(Code::InvalidArgument, "text", details))
            .render();
        assert_eq!(
            two,
            "error: the input breaks 2 rules; there may be more\n  tasks[0].id: `A B` has a \
             space\n  name: is empty\n"
        );
    }

    #[test]
    fn fields_of_the_contract_are_words() {
        assert_eq!(words("header.size_bytes"), "size bytes");
        assert_eq!(words("idempotency_key"), "idempotency key");
        for of_spec in ["spec.tasks[0].depends_on", "tasks[0].depends_on"] {
            assert_eq!(words(of_spec), of_spec);
        }
    }

    #[test]
    fn every_code_has_the_exit_code_that_help_documents() {
        let table = [
            (Code::InvalidArgument, Exit::Usage),
            (Code::Unavailable, Exit::Unreachable),
            (Code::DeadlineExceeded, Exit::Unreachable),
            (Code::Internal, Exit::Unreachable),
            (Code::NotFound, Exit::Refused),
            (Code::Unauthenticated, Exit::Refused),
            (Code::PermissionDenied, Exit::Refused),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::ResourceExhausted, Exit::Refused),
            (Code::Aborted, Exit::Refused),
        ];
        for (code, exit) in table {
            assert_eq!(Failure::from(Status::new(code, "x")).exit, exit, "{code:?}");
        }
    }

    #[test]
    fn unreachable_says_what_to_do() {
        let text = Failure::from(Status::unavailable("gone")).render();
        assert!(text.contains("did not answer: gone") && text.contains("`gofer server`"), "{text}");
        let mut details = ErrorDetails::new();
        details.set_error_info("DATABASE_FULL", "gofer", HashMap::<String, String>::new());
        let text = Failure::from(Status::with_error_details(Code::Unavailable, "no room", details))
            .render();
        assert!(
            text.starts_with("error: no room\n") && text.contains("may succeed later"),
            "{text}"
        );
        assert!(!text.contains("`gofer server`"), "one is there: {text}");
    }
}
