//! The only file that makes a gRPC status. Every status carries `google.rpc.ErrorInfo` with a stable reason, bad input
//! `google.rpc.BadRequest` with one violation per field, and what may succeed later `google.rpc.RetryInfo`.
//! `RESOURCE_EXHAUSTED` is a limit that the caller met; what the server itself has no room for is `UNAVAILABLE`.

use std::collections::HashMap;
use std::time::Duration;

use gofer_core::error::chain;
use gofer_core::validate::Violation;
use gofer_core::{BackendError, ErrorKind};
use gofer_db::DbError;
use gofer_engine::EngineError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::{ApiError, TokenProblem};

/// Whose reasons these are, in `google.rpc.ErrorInfo.domain`.
pub(crate) const DOMAIN: &str = "gofer";
/// Longest message of a status: it travels in a header, and proxies allow about 8 KiB for all of them.
const MAX_MESSAGE_BYTES: usize = 3 * 1024;
/// Most violations of one status, for the same reason; the first ones are enough to go on with.
const MAX_VIOLATIONS: usize = 20;
/// When to call again what is unavailable: a server that restarts, or a connection that broke, is back soon.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// When to call again what has no room: somebody or something has to make some first.
const RETRY_FULL: Duration = Duration::from_secs(5);

/// What travels, before it is wrapped: the code, the stable reason and the text for people.
struct Shape {
    code: Code,
    reason: String,
    message: String,
    violations: Vec<Violation>,
    /// When the same call may succeed; nothing where it will not.
    retry_after: Option<Duration>,
}

impl Shape {
    fn new(code: Code, reason: impl Into<String>, message: impl Into<String>) -> Self {
        let retry_after = (code == Code::Unavailable).then_some(RETRY_SOON);
        Self { code, reason: reason.into(), message: message.into(), violations: Vec::new(), retry_after }
    }

    /// What the server stands on has no room left, whoever calls.
    fn full(reason: &str, message: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY_FULL), ..Self::new(Code::Unavailable, reason, message) }
    }

    fn invalid(violations: Vec<Violation>) -> Self {
        let mut message = violations.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("; ");
        if violations.len() > 3 {
            message.push_str(&format!("; and {} more", violations.len() - 3));
        }
        Self { violations, ..Self::new(Code::InvalidArgument, "INVALID_INPUT", message) }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        log(&error);
        let shape = api(error);
        let mut details = ErrorDetails::new();
        details.set_error_info(shape.reason, DOMAIN, HashMap::<String, String>::new());
        if !shape.violations.is_empty() {
            let fields: Vec<_> = shape.violations.into_iter().take(MAX_VIOLATIONS).map(field_violation).collect();
            details.set_bad_request(fields);
        }
        if shape.retry_after.is_some() {
            details.set_retry_info(shape.retry_after);
        }
        Self::with_error_details(shape.code, shorten(shape.message, MAX_MESSAGE_BYTES), details)
    }
}

fn api(error: ApiError) -> Shape {
    let message = error.to_string();
    match error {
        ApiError::Invalid(violations) => Shape::invalid(violations),
        ApiError::Unauthenticated(problem) => Shape::new(Code::Unauthenticated, token_reason(problem), message),
        ApiError::Forbidden { .. } => Shape::new(Code::PermissionDenied, "FORBIDDEN", message),
        ApiError::NotFound { what, .. } => Shape::new(Code::NotFound, named(what, "NOT_FOUND"), message),
        ApiError::AlreadyExists { what, .. } => Shape::new(Code::AlreadyExists, named(what, "ALREADY_EXISTS"), message),
        ApiError::Precondition { reason, .. } => Shape::new(Code::FailedPrecondition, reason, message),
        ApiError::VersionConflict { .. } => Shape::new(Code::Aborted, "VERSION_CONFLICT", message),
        ApiError::ObjectTooLarge { .. } => Shape::new(Code::ResourceExhausted, "OBJECT_TOO_LARGE", message),
        ApiError::NotInThisVersion { .. } => Shape::new(Code::Unimplemented, "NOT_IN_THIS_VERSION", message),
        ApiError::NoSuchMethod { .. } => Shape::new(Code::Unimplemented, "METHOD_NOT_FOUND", message),
        ApiError::TooSlow { .. } => Shape::new(Code::DeadlineExceeded, "TIMEOUT", message),
        ApiError::Idle { .. } => Shape::new(Code::DeadlineExceeded, "STREAM_IDLE", message),
        ApiError::ShuttingDown => Shape::new(Code::Unavailable, "SHUTTING_DOWN", message),
        ApiError::Broken => Shape::new(Code::Internal, "INTERNAL", message),
        ApiError::CutOff { .. } => Shape::new(Code::Cancelled, "CUT_OFF", message),
        ApiError::Db(error) => db(error),
        ApiError::Engine(error) => engine(error),
        ApiError::Backend(error) => backend(&error),
    }
}

fn db(error: DbError) -> Shape {
    let message = error.to_string();
    match error {
        DbError::NotFound { what, .. } => Shape::new(Code::NotFound, named(what, "NOT_FOUND"), message),
        DbError::AlreadyExists { what, .. } => Shape::new(Code::AlreadyExists, named(what, "ALREADY_EXISTS"), message),
        DbError::Disabled { .. } => Shape::new(Code::FailedPrecondition, "PIPELINE_DISABLED", message),
        DbError::Conflict { .. } => Shape::new(Code::FailedPrecondition, "CONFLICT", message),
        DbError::Invalid { field, value, rule } => Shape::invalid(vec![Violation::new(field, value, rule)]),
        DbError::Config { .. } | DbError::Locked { .. } => Shape::new(Code::Internal, "DATABASE_CONFIG", message),
        DbError::Unavailable { .. } => Shape::new(Code::Unavailable, "DATABASE_UNAVAILABLE", message),
        DbError::Exhausted { .. } => Shape::full("DATABASE_FULL", message),
        DbError::Corrupt { .. } => Shape::new(Code::DataLoss, "DATABASE_CORRUPT", message),
        DbError::Internal { .. } => Shape::new(Code::Internal, "INTERNAL", message),
    }
}

fn engine(error: EngineError) -> Shape {
    let message = error.to_string();
    match error {
        EngineError::NotFound { what, .. } => Shape::new(Code::NotFound, named(what, "NOT_FOUND"), message),
        EngineError::Disabled { .. } => Shape::new(Code::FailedPrecondition, "PIPELINE_DISABLED", message),
        EngineError::Invalid(violations) => Shape::invalid(violations),
        EngineError::NotComplete { .. } => Shape::new(Code::FailedPrecondition, "RUN_NOT_COMPLETE", message),
        EngineError::NotRunning { .. } => Shape::new(Code::FailedPrecondition, "TASK_RUN_NOT_RUNNING", message),
        EngineError::Unsupported { .. } => Shape::new(Code::FailedPrecondition, "UNSUPPORTED", message),
        EngineError::Backend(error) => backend(&error),
        EngineError::Stopped => Shape::new(Code::Unavailable, "SHUTTING_DOWN", message),
    }
}

/// A backend's error tells of the server's own dealings: that the server is denied does not mean that the caller is.
fn backend(error: &BackendError) -> Shape {
    let (code, reason) = match error.kind {
        ErrorKind::NotFound => (Code::NotFound, "NOT_FOUND"),
        ErrorKind::AlreadyExists => (Code::AlreadyExists, "ALREADY_EXISTS"),
        ErrorKind::Invalid => (Code::InvalidArgument, "INVALID_INPUT"),
        ErrorKind::Denied => (Code::FailedPrecondition, "BACKEND_DENIED"),
        ErrorKind::Unavailable => (Code::Unavailable, "BACKEND_UNAVAILABLE"),
        ErrorKind::Timeout => (Code::Unavailable, "BACKEND_TIMEOUT"),
        ErrorKind::RateLimited => (Code::Unavailable, "BACKEND_BUSY"),
        ErrorKind::Exhausted => return Shape::full("BACKEND_FULL", error.message.clone()),
        ErrorKind::Unsupported => (Code::FailedPrecondition, "UNSUPPORTED"),
        ErrorKind::Corrupt => (Code::DataLoss, "BACKEND_CORRUPT"),
        // Kinds that gofer-core gains later are faults until somebody says otherwise.
        _ => (Code::Internal, "INTERNAL"),
    };
    Shape::new(code, reason, error.message.clone())
}

fn token_reason(problem: TokenProblem) -> &'static str {
    match problem {
        TokenProblem::Missing => "TOKEN_MISSING",
        TokenProblem::Malformed => "TOKEN_MALFORMED",
        TokenProblem::Unknown => "TOKEN_UNKNOWN",
        TokenProblem::Expired => "TOKEN_EXPIRED",
        TokenProblem::Disabled => "TOKEN_DISABLED",
        TokenProblem::ForeignHost => "FOREIGN_HOST",
    }
}

/// `task run` and `NOT_FOUND` are `TASK_RUN_NOT_FOUND`.
fn named(what: &str, suffix: &str) -> String {
    format!("{}_{suffix}", what.to_ascii_uppercase().replace([' ', '-'], "_"))
}

fn field_violation(violation: Violation) -> FieldViolation {
    let description = if violation.value.is_empty() {
        violation.rule
    } else {
        format!("{} (got `{}`)", violation.rule, violation.value)
    };
    FieldViolation::new(violation.field, description)
}

fn shorten(mut message: String, max_bytes: usize) -> String {
    if message.len() > max_bytes {
        message.truncate(message.floor_char_boundary(max_bytes));
        message.push('…');
    }
    message
}

/// Faults of the server are its operator's business, with every cause; the rest is the caller's.
fn log(error: &ApiError) {
    let fault = match error {
        ApiError::Db(error) => !matches!(
            error,
            DbError::NotFound { .. }
                | DbError::AlreadyExists { .. }
                | DbError::Disabled { .. }
                | DbError::Conflict { .. }
                | DbError::Invalid { .. }
        ),
        ApiError::Backend(error) | ApiError::Engine(EngineError::Backend(error)) => {
            !matches!(error.kind, ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Invalid)
        }
        ApiError::Broken | ApiError::TooSlow { .. } => true,
        _ => false,
    };
    if fault {
        tracing::error!(error = %chain(error), "a call failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: impl Into<ApiError>, code: Code, reason: &str) {
        let error = error.into();
        let message = error.to_string();
        let status = Status::from(error);
        let info = status.get_details_error_info().expect("every status has an ErrorInfo");
        assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{message}");
        assert_eq!(info.domain, DOMAIN);
        let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(retry.is_some(), code == Code::Unavailable, "{reason}: who may call again is told when");
        assert_eq!(retry == Some(RETRY_FULL), reason.ends_with("_FULL"), "{reason}: {retry:?}");
        assert!(!status.message().is_empty() && !status.message().ends_with('.'), "{}", status.message());
    }

    #[test]
    fn every_error_has_its_code_and_reason() {
        let key = || "a/b".to_owned();
        let message = || "because".to_owned();
        check(ApiError::Unauthenticated(TokenProblem::Missing), Code::Unauthenticated, "TOKEN_MISSING");
        check(ApiError::Unauthenticated(TokenProblem::Malformed), Code::Unauthenticated, "TOKEN_MALFORMED");
        check(ApiError::Unauthenticated(TokenProblem::Unknown), Code::Unauthenticated, "TOKEN_UNKNOWN");
        check(ApiError::Unauthenticated(TokenProblem::Expired), Code::Unauthenticated, "TOKEN_EXPIRED");
        check(ApiError::Unauthenticated(TokenProblem::Disabled), Code::Unauthenticated, "TOKEN_DISABLED");
        check(ApiError::Unauthenticated(TokenProblem::ForeignHost), Code::Unauthenticated, "FOREIGN_HOST");
        check(ApiError::Forbidden { message: message() }, Code::PermissionDenied, "FORBIDDEN");
        check(ApiError::not_found("task run", "a/b/1/c"), Code::NotFound, "TASK_RUN_NOT_FOUND");
        check(ApiError::AlreadyExists { what: "secret", key: key() }, Code::AlreadyExists, "SECRET_ALREADY_EXISTS");
        check(ApiError::Precondition { reason: "WHY", message: message() }, Code::FailedPrecondition, "WHY");
        check(ApiError::VersionConflict { expected: 1, latest: 2 }, Code::Aborted, "VERSION_CONFLICT");
        let too_large = ApiError::ObjectTooLarge { limit_bytes: 1, at_least_bytes: 2 };
        check(too_large, Code::ResourceExhausted, "OBJECT_TOO_LARGE");
        check(ApiError::NotInThisVersion { what: "triggers" }, Code::Unimplemented, "NOT_IN_THIS_VERSION");
        check(ApiError::NoSuchMethod { path: "/a/b".into() }, Code::Unimplemented, "METHOD_NOT_FOUND");
        check(ApiError::TooSlow { seconds: 1 }, Code::DeadlineExceeded, "TIMEOUT");
        check(ApiError::Idle { seconds: 1 }, Code::DeadlineExceeded, "STREAM_IDLE");
        check(ApiError::ShuttingDown, Code::Unavailable, "SHUTTING_DOWN");
        check(ApiError::Broken, Code::Internal, "INTERNAL");
        check(ApiError::CutOff { message: message() }, Code::Cancelled, "CUT_OFF");
    }

    #[test]
    fn every_database_error_has_its_code_and_reason() {
        let key = || "a/b".to_owned();
        let message = || "because".to_owned();
        let source = None;
        check(DbError::NotFound { what: "run", key: key() }, Code::NotFound, "RUN_NOT_FOUND");
        check(
            DbError::AlreadyExists { what: "namespace", key: key() },
            Code::AlreadyExists,
            "NAMESPACE_ALREADY_EXISTS",
        );
        check(DbError::Disabled { key: key() }, Code::FailedPrecondition, "PIPELINE_DISABLED");
        check(DbError::Conflict { message: message() }, Code::FailedPrecondition, "CONFLICT");
        check(DbError::Invalid { field: "f", value: "v".into(), rule: "r" }, Code::InvalidArgument, "INVALID_INPUT");
        check(DbError::Config { message: message() }, Code::Internal, "DATABASE_CONFIG");
        check(DbError::Locked { database: key(), holder: key() }, Code::Internal, "DATABASE_CONFIG");
        check(DbError::Unavailable { message: message(), source }, Code::Unavailable, "DATABASE_UNAVAILABLE");
        check(DbError::Exhausted { source: None }, Code::Unavailable, "DATABASE_FULL");
        check(DbError::Corrupt { message: message(), source: None }, Code::DataLoss, "DATABASE_CORRUPT");
        check(DbError::Internal { message: message(), source: None }, Code::Internal, "INTERNAL");
    }

    #[test]
    fn every_engine_and_backend_error_has_its_code_and_reason() {
        let key = || "a/b/1".to_owned();
        let message = || "because".to_owned();
        check(EngineError::NotFound { what: "run", key: key() }, Code::NotFound, "RUN_NOT_FOUND");
        check(EngineError::Disabled { key: key() }, Code::FailedPrecondition, "PIPELINE_DISABLED");
        check(EngineError::Invalid(vec![Violation::new("f", "v", "r")]), Code::InvalidArgument, "INVALID_INPUT");
        check(EngineError::NotComplete { key: key() }, Code::FailedPrecondition, "RUN_NOT_COMPLETE");
        check(EngineError::Unsupported { message: message() }, Code::FailedPrecondition, "UNSUPPORTED");
        check(EngineError::Stopped, Code::Unavailable, "SHUTTING_DOWN");
        let kinds = [
            (ErrorKind::NotFound, Code::NotFound, "NOT_FOUND"),
            (ErrorKind::AlreadyExists, Code::AlreadyExists, "ALREADY_EXISTS"),
            (ErrorKind::Invalid, Code::InvalidArgument, "INVALID_INPUT"),
            (ErrorKind::Denied, Code::FailedPrecondition, "BACKEND_DENIED"),
            (ErrorKind::Unavailable, Code::Unavailable, "BACKEND_UNAVAILABLE"),
            (ErrorKind::Timeout, Code::Unavailable, "BACKEND_TIMEOUT"),
            (ErrorKind::RateLimited, Code::Unavailable, "BACKEND_BUSY"),
            (ErrorKind::Exhausted, Code::Unavailable, "BACKEND_FULL"),
            (ErrorKind::Unsupported, Code::FailedPrecondition, "UNSUPPORTED"),
            (ErrorKind::Corrupt, Code::DataLoss, "BACKEND_CORRUPT"),
            (ErrorKind::Internal, Code::Internal, "INTERNAL"),
        ];
        for (kind, code, reason) in kinds {
            check(BackendError::new(kind, "because"), code, reason);
            check(EngineError::Backend(BackendError::new(kind, "because")), code, reason);
        }
    }

    #[test]
    fn bad_input_names_field_value_and_rule_and_fits_into_a_header() {
        let violations: Vec<_> =
            (0..100).map(|at| Violation::new(format!("tasks[{at}].id"), "A b", "a rule")).collect();
        let status = Status::from(ApiError::Invalid(violations));
        assert!(status.message().ends_with("and 97 more"), "{}", status.message());
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(fields.len(), MAX_VIOLATIONS);
        assert_eq!(fields[0].field, "tasks[0].id");
        assert_eq!(fields[0].description, "a rule (got `A b`)");
        assert!(status.details().len() < 4096);
        let long = ApiError::Forbidden { message: "ä".repeat(10_000) };
        assert!(Status::from(long).message().len() <= MAX_MESSAGE_BYTES + 3);
    }
}
