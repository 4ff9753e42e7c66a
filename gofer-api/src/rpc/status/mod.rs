//! The only file that makes a gRPC status. Every status carries `google.rpc.ErrorInfo` with a
//! stable reason, bad input `google.rpc.BadRequest` with one violation per field, and what may
//! succeed later `google.rpc.RetryInfo`. `RESOURCE_EXHAUSTED` is a limit that the caller met; what
//! the server itself has no room for is `UNAVAILABLE`.

use std::collections::HashMap;
use std::time::Duration;

use gofer_core::error::chain;
use gofer_core::quota::QuotaExceeded;
use gofer_core::validate::{self, Violation};
use gofer_core::{BackendError, ErrorKind, Resource};
use gofer_db::DbError;
use gofer_engine::EngineError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::{ApiError, TokenProblem};
use crate::auth::provenance::Foreign;

/// Whose reasons these are, in `google.rpc.ErrorInfo.domain`.
pub(crate) const DOMAIN: &str = "gofer";
/// Longest message of a status as it travels, percent-encoded in a header. Clients refuse more than
/// 16 KiB of headers together, with an error of their own that says nothing of the reason; this and
/// the details stay well below.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// Longest message inside the details, which repeat it.
const MAX_DETAILS_MESSAGE_BYTES: usize = 1024;
/// Most violations of one status; the first ones are enough to go on with.
const MAX_VIOLATIONS: usize = 20;
/// Longest field of a violation.
const MAX_FIELD_BYTES: usize = 256;
/// Longest rule of a violation, with the value that breaks it.
const MAX_RULE_BYTES: usize = 1024;
/// All violations of one status together. In a header they are base64, a third longer.
const MAX_VIOLATIONS_BYTES: usize = 3 * 1024;
/// How many violations a status has no room for, in `google.rpc.ErrorInfo.metadata`.
const LEFT_OUT: &str = "violations_left_out";
/// When to call again what is unavailable: a server that restarts, or a connection that broke, is
/// back soon.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// When to call again what has no room: somebody or something has to make some first.
const RETRY_FULL: Duration = Duration::from_secs(5);

/// What travels, before it is wrapped: the code, the stable reason and the text for people.
struct Shape {
    code: Code,
    reason: String,
    message: String,
    violations: Vec<Violation>,
    /// More for programs, in `google.rpc.ErrorInfo.metadata`.
    metadata: HashMap<String, String>,
    /// When the same call may succeed; nothing where it will not.
    retry_after: Option<Duration>,
}

impl Shape {
    fn new(code: Code, reason: impl Into<String>, message: impl Into<String>) -> Self {
        let retry_after = (code == Code::Unavailable).then_some(RETRY_SOON);
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            violations: Vec::new(),
            metadata: HashMap::new(),
            retry_after,
        }
    }

    /// What the server stands on has no room left, whoever calls.
    fn full(reason: &str, message: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY_FULL), ..Self::new(Code::Unavailable, reason, message) }
    }

    /// A namespace has as much as it may.
    fn quota(exceeded: &QuotaExceeded) -> Self {
        let QuotaExceeded { quota, namespace, limit, used, wanted } = exceeded;
        let metadata = [
            ("quota", quota.to_string()),
            ("namespace", namespace.to_string()),
            ("limit", limit.to_string()),
            ("used", used.to_string()),
            ("wanted", wanted.to_string()),
        ];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value)).into();
        Self {
            metadata,
            ..Self::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", exceeded.to_string())
        }
    }

    fn invalid(violations: Vec<Violation>) -> Self {
        let mut message = validate::joined(&violations[..violations.len().min(3)]);
        if violations.len() > 3 {
            message.push_str(&format!("; and {} more", violations.len() - 3));
        }
        Self { violations, ..Self::new(Code::InvalidArgument, "INVALID_INPUT", message) }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        log(&error);
        let mut shape = api(error);
        let mut details = ErrorDetails::new();
        let mut metadata = std::mem::take(&mut shape.metadata);

        let count = shape.violations.len();
        let fields = that_fit(shape.violations);
        let left_out = count - fields.len();
        if left_out > 0 {
            metadata.insert(LEFT_OUT.to_owned(), left_out.to_string());
        }

        details.set_error_info(shape.reason, DOMAIN, metadata);
        if !fields.is_empty() {
            details.set_bad_request(fields);
        }

        if shape.retry_after.is_some() {
            details.set_retry_info(shape.retry_after);
        }

        let message = shorten(&shape.message, MAX_MESSAGE_BYTES);
        if message.len() < shape.message.len() {
            tracing::warn!(reason = details.error_info().map(|info| info.reason.as_str()), message = %shape.message,
                "an error's message is too long to be sent whole");
        }

        let inner = Self::with_error_details(
            shape.code,
            shorten(&message, MAX_DETAILS_MESSAGE_BYTES),
            details,
        );

        Self::with_details(shape.code, message, inner.details().to_vec().into())
    }
}

fn api(error: ApiError) -> Shape {
    let message = error.to_string();
    match error {
        ApiError::Invalid(violations) => Shape::invalid(violations),
        ApiError::Unauthenticated(problem) => {
            Shape::new(Code::Unauthenticated, token_reason(problem), message)
        }
        ApiError::Foreign(foreign) => {
            Shape::new(Code::PermissionDenied, foreign_reason(&foreign), message)
        }
        ApiError::Forbidden { .. } => Shape::new(Code::PermissionDenied, "FORBIDDEN", message),
        ApiError::NotFound { what, .. } => Shape::new(Code::NotFound, not_found(what), message),
        ApiError::AlreadyExists { what, .. } => {
            Shape::new(Code::AlreadyExists, exists(what), message)
        }
        ApiError::ContentLost { .. } => Shape::new(Code::NotFound, "CONTENT_LOST", message),
        ApiError::Precondition { reason, .. } => {
            Shape::new(Code::FailedPrecondition, reason, message)
        }
        ApiError::VersionConflict { .. } => Shape::new(Code::Aborted, "VERSION_CONFLICT", message),
        ApiError::ObjectTooLarge { .. } => {
            Shape::new(Code::ResourceExhausted, "OBJECT_TOO_LARGE", message)
        }
        ApiError::NotInThisVersion { .. } => {
            Shape::new(Code::Unimplemented, "NOT_IN_THIS_VERSION", message)
        }
        ApiError::NoSuchMethod { .. } => {
            Shape::new(Code::Unimplemented, "METHOD_NOT_FOUND", message)
        }
        ApiError::TooSlow { .. } => Shape::new(Code::DeadlineExceeded, "TIMEOUT", message),
        ApiError::TooLarge { .. } => {
            Shape::new(Code::ResourceExhausted, "REQUEST_TOO_LARGE", message)
        }
        ApiError::Malformed { .. } => {
            Shape::new(Code::InvalidArgument, "REQUEST_MALFORMED", message)
        }
        ApiError::RequestIncomplete => {
            Shape::new(Code::DeadlineExceeded, "REQUEST_INCOMPLETE", message)
        }
        ApiError::ShareSpent { .. } => Shape {
            retry_after: Some(RETRY_SOON),
            ..Shape::new(Code::ResourceExhausted, "SHARE_SPENT", message)
        },
        ApiError::NoMemory => Shape::new(Code::Unavailable, "REQUEST_MEMORY_FULL", message),
        ApiError::TooManyCalls { .. } => {
            Shape::new(Code::ResourceExhausted, "TOO_MANY_CALLS", message)
        }
        ApiError::Idle { .. } => Shape::new(Code::DeadlineExceeded, "STREAM_IDLE", message),
        ApiError::ShuttingDown => Shape::new(Code::Unavailable, "SHUTTING_DOWN", message),
        ApiError::Broken => Shape::new(Code::Internal, "INTERNAL", message),
        ApiError::CutOff { .. } => Shape::new(Code::Cancelled, "CUT_OFF", message),
        ApiError::Quota(exceeded) => Shape::quota(&exceeded),
        ApiError::DiskFull { .. } => Shape::full("DISK_FULL", message),
        ApiError::ExecSessionsFull { .. } => Shape::full("EXEC_SESSIONS_FULL", message),
        ApiError::UploadTooSlow { .. } => {
            Shape::new(Code::DeadlineExceeded, "UPLOAD_TOO_SLOW", message)
        }
        ApiError::EventsExpired { .. } => Shape::new(Code::OutOfRange, "EVENTS_EXPIRED", message),
        ApiError::Db(error) => db(error),
        ApiError::Engine(error) => engine(error),
        ApiError::Backend(error) => backend(&error),
    }
}

fn db(error: DbError) -> Shape {
    let message = error.to_string();
    match error {
        DbError::NotFound { what, .. } => Shape::new(Code::NotFound, not_found(what), message),
        DbError::AlreadyExists { what, .. } => {
            Shape::new(Code::AlreadyExists, exists(what), message)
        }
        DbError::Disabled { .. } => {
            Shape::new(Code::FailedPrecondition, "PIPELINE_DISABLED", message)
        }
        DbError::Variables(violations) => Shape::invalid(violations),
        DbError::TooManyMasks(_) => Shape::new(Code::ResourceExhausted, "TOO_MANY_MASKS", message),
        DbError::Quota(exceeded) => Shape::quota(&exceeded),
        DbError::LastManagementToken { .. } => {
            Shape::new(Code::FailedPrecondition, "LAST_MANAGEMENT_TOKEN", message)
        }
        DbError::Conflict { .. } => Shape::new(Code::FailedPrecondition, "CONFLICT", message),
        DbError::Invalid { field, value, rule } => {
            Shape::invalid(vec![Violation::new(field, value, rule)])
        }
        DbError::Config { .. } | DbError::Locked { .. } => {
            Shape::new(Code::Internal, "DATABASE_CONFIG", message)
        }
        DbError::Unavailable { .. } => {
            Shape::new(Code::Unavailable, "DATABASE_UNAVAILABLE", message)
        }
        DbError::Exhausted { .. } => Shape::full("DATABASE_FULL", message),
        DbError::Corrupt { .. } => Shape::new(Code::DataLoss, "DATABASE_CORRUPT", message),
        DbError::Internal { .. } => Shape::new(Code::Internal, "INTERNAL", message),
    }
}

fn engine(error: EngineError) -> Shape {
    let message = error.to_string();
    match error {
        EngineError::NotFound { what, .. } => Shape::new(Code::NotFound, not_found(what), message),
        EngineError::LogGone { .. } => Shape::new(Code::NotFound, "LOG_GONE", message),
        EngineError::Disabled { .. } => {
            Shape::new(Code::FailedPrecondition, "PIPELINE_DISABLED", message)
        }
        EngineError::Quota(exceeded) => Shape::quota(&exceeded),
        EngineError::Invalid(violations) => Shape::invalid(violations),
        EngineError::NotComplete { .. } => {
            Shape::new(Code::FailedPrecondition, "RUN_NOT_COMPLETE", message)
        }
        EngineError::NotRunning { .. } => {
            Shape::new(Code::FailedPrecondition, "TASK_RUN_NOT_RUNNING", message)
        }
        EngineError::TooManyMasks(_) => {
            Shape::new(Code::ResourceExhausted, "TOO_MANY_MASKS", message)
        }
        EngineError::Unsupported { .. } => {
            Shape::new(Code::FailedPrecondition, "UNSUPPORTED", message)
        }
        EngineError::Backend(error) => backend(&error),
        EngineError::Stopped => Shape::new(Code::Unavailable, "SHUTTING_DOWN", message),
    }
}

/// A backend's error tells of the server's own dealings: that the server is denied does not mean
/// that the caller is.
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
        TokenProblem::OwnMissing => "TOKEN_MISSING",
        TokenProblem::NamespaceGone => "TOKEN_NAMESPACE_GONE",
    }
}

fn foreign_reason(foreign: &Foreign) -> &'static str {
    match foreign {
        Foreign::Origin(_) => "FOREIGN_ORIGIN",
        Foreign::Site(_) => "CROSS_SITE",
        Foreign::Host(_) => "FOREIGN_HOST",
        Foreign::Proxy(_) => "UNTRUSTED_PROXY",
    }
}

fn not_found(what: Resource) -> String {
    format!("{}_NOT_FOUND", what.code())
}

fn exists(what: Resource) -> String {
    format!("{}_ALREADY_EXISTS", what.code())
}

/// The first violations, as many as a status has room for.
fn that_fit(violations: Vec<Violation>) -> Vec<FieldViolation> {
    let mut room = MAX_VIOLATIONS_BYTES;
    let fits = |field: &FieldViolation| {
        let needed = field.field.len() + field.description.len();
        let fits = needed <= room;
        room = room.saturating_sub(needed);
        fits
    };
    violations.into_iter().take(MAX_VIOLATIONS).map(field_violation).take_while(fits).collect()
}

fn field_violation(violation: Violation) -> FieldViolation {
    let description = if violation.value.is_empty() {
        violation.rule
    } else {
        format!("{} (got `{}`)", violation.rule, violation.value)
    };
    FieldViolation::new(
        shorten(&violation.field, MAX_FIELD_BYTES),
        shorten(&description, MAX_RULE_BYTES),
    )
}

/// The text, or its beginning and `…`, in no more than so many bytes when it is percent-encoded.
fn shorten(text: &str, max_bytes: usize) -> String {
    const MORE: &str = "…";

    if encoded_bytes(text) <= max_bytes {
        return text.to_owned();
    }

    let mut room = max_bytes - encoded_bytes(MORE);
    let mut short = String::new();
    for character in text.chars() {
        let needed = encoded_bytes(character.encode_utf8(&mut [0; 4]));
        if needed > room {
            break;
        }
        room -= needed;
        short.push(character);
    }

    short + MORE
}

/// What gRPC makes of a text in a header: a byte that is no plain character becomes three.
fn encoded_bytes(text: &str) -> usize {
    let bytes = |byte: u8| match byte {
        b' ' | b'"' | b'#' | b'%' | b'<' | b'>' | b'`' | b'?' | b'{' | b'}' => 3,
        _ if byte.is_ascii_graphic() => 1,
        _ => 3,
    };
    text.bytes().map(bytes).sum()
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
                | DbError::LastManagementToken { .. }
                | DbError::Variables(_)
                | DbError::TooManyMasks(_)
                | DbError::Quota(_)
                | DbError::Invalid { .. }
        ),
        ApiError::Backend(error) | ApiError::Engine(EngineError::Backend(error)) => !matches!(
            error.kind,
            ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Invalid
        ),
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
    use gofer_core::journal::TooManyMasks;

    fn check(error: impl Into<ApiError>, code: Code, reason: &str) {
        let error = error.into();
        let message = error.to_string();
        let status = Status::from(error);
        let info = status.get_details_error_info().expect("every status has an ErrorInfo");
        assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{message}");
        assert_eq!(info.domain, DOMAIN);

        let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(
            retry.is_some(),
            code == Code::Unavailable,
            "{reason}: who may call again is told when"
        );
        assert_eq!(retry == Some(RETRY_FULL), reason.ends_with("_FULL"), "{reason}: {retry:?}");
        assert!(
            !status.message().is_empty() && !status.message().ends_with('.'),
            "{}",
            status.message()
        );
    }

    #[test]
    fn every_error_has_its_code_and_reason() {
        let key = || "a/b".to_owned();
        let message = || "because".to_owned();
        check(
            ApiError::Unauthenticated(TokenProblem::Missing),
            Code::Unauthenticated,
            "TOKEN_MISSING",
        );
        check(
            ApiError::Unauthenticated(TokenProblem::Malformed),
            Code::Unauthenticated,
            "TOKEN_MALFORMED",
        );
        check(
            ApiError::Unauthenticated(TokenProblem::Unknown),
            Code::Unauthenticated,
            "TOKEN_UNKNOWN",
        );
        check(
            ApiError::Unauthenticated(TokenProblem::Expired),
            Code::Unauthenticated,
            "TOKEN_EXPIRED",
        );
        check(
            ApiError::Unauthenticated(TokenProblem::Disabled),
            Code::Unauthenticated,
            "TOKEN_DISABLED",
        );
        check(
            ApiError::Unauthenticated(TokenProblem::OwnMissing),
            Code::Unauthenticated,
            "TOKEN_MISSING",
        );
        check(
            ApiError::Unauthenticated(TokenProblem::NamespaceGone),
            Code::Unauthenticated,
            "TOKEN_NAMESPACE_GONE",
        );
        check(ApiError::Foreign(Foreign::Origin(key())), Code::PermissionDenied, "FOREIGN_ORIGIN");
        check(ApiError::Foreign(Foreign::Site(key())), Code::PermissionDenied, "CROSS_SITE");
        check(ApiError::Foreign(Foreign::Host(key())), Code::PermissionDenied, "FOREIGN_HOST");
        check(ApiError::Foreign(Foreign::Proxy(key())), Code::PermissionDenied, "UNTRUSTED_PROXY");
        check(ApiError::Forbidden { message: message() }, Code::PermissionDenied, "FORBIDDEN");
        check(
            ApiError::not_found(Resource::TaskRun, "a/b/1/c"),
            Code::NotFound,
            "TASK_RUN_NOT_FOUND",
        );
        check(
            ApiError::AlreadyExists { what: Resource::Secret, key: key() },
            Code::AlreadyExists,
            "SECRET_ALREADY_EXISTS",
        );
        check(
            ApiError::Precondition { reason: "WHY", message: message() },
            Code::FailedPrecondition,
            "WHY",
        );
        check(
            ApiError::VersionConflict { expected: 1, latest: 2 },
            Code::Aborted,
            "VERSION_CONFLICT",
        );

        let too_large = ApiError::ObjectTooLarge { limit_bytes: 1, at_least_bytes: 2 };
        check(too_large, Code::ResourceExhausted, "OBJECT_TOO_LARGE");
        check(
            ApiError::NotInThisVersion { what: "triggers" },
            Code::Unimplemented,
            "NOT_IN_THIS_VERSION",
        );
        check(
            ApiError::NoSuchMethod { path: "/a/b".into() },
            Code::Unimplemented,
            "METHOD_NOT_FOUND",
        );
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
        check(
            DbError::NotFound { what: Resource::Run, key: key() },
            Code::NotFound,
            "RUN_NOT_FOUND",
        );
        check(
            DbError::AlreadyExists { what: Resource::Namespace, key: key() },
            Code::AlreadyExists,
            "NAMESPACE_ALREADY_EXISTS",
        );
        check(DbError::Disabled { key: key() }, Code::FailedPrecondition, "PIPELINE_DISABLED");
        check(DbError::Conflict { message: message() }, Code::FailedPrecondition, "CONFLICT");
        check(
            DbError::Invalid { field: "f", value: "v".into(), rule: "r" },
            Code::InvalidArgument,
            "INVALID_INPUT",
        );

        let refused = QuotaExceeded {
            quota: gofer_core::quota::QuotaKind::Secrets,
            namespace: "red".parse().unwrap(),
            limit: 3,
            used: 2,
            wanted: 2,
        };

        check(refused.clone(), Code::ResourceExhausted, "QUOTA_EXCEEDED");
        check(DbError::Quota(refused.clone()), Code::ResourceExhausted, "QUOTA_EXCEEDED");
        check(EngineError::Quota(refused.clone()), Code::ResourceExhausted, "QUOTA_EXCEEDED");
        let metadata =
            Status::from(ApiError::from(refused)).get_details_error_info().unwrap().metadata;
        let told =
            ["quota", "namespace", "limit", "used", "wanted"].map(|name| metadata[name].clone());

        assert_eq!(told, ["secrets", "red", "3", "2", "2"]);
        check(ApiError::DiskFull { free_bytes: 1, min_bytes: 2 }, Code::Unavailable, "DISK_FULL");
        check(ApiError::ExecSessionsFull { limit: 1 }, Code::Unavailable, "EXEC_SESSIONS_FULL");
        check(
            ApiError::UploadTooSlow { bytes: 1, seconds: 2, rate: 3 },
            Code::DeadlineExceeded,
            "UPLOAD_TOO_SLOW",
        );
        check(ApiError::EventsExpired { after: 1, oldest: 3 }, Code::OutOfRange, "EVENTS_EXPIRED");
        check(DbError::Config { message: message() }, Code::Internal, "DATABASE_CONFIG");
        check(
            DbError::Locked { database: key(), holder: key() },
            Code::Internal,
            "DATABASE_CONFIG",
        );
        check(
            DbError::Unavailable { message: message(), source },
            Code::Unavailable,
            "DATABASE_UNAVAILABLE",
        );
        check(DbError::Exhausted { source: None }, Code::Unavailable, "DATABASE_FULL");
        check(
            DbError::Corrupt { message: message(), source: None },
            Code::DataLoss,
            "DATABASE_CORRUPT",
        );
        check(DbError::Internal { message: message(), source: None }, Code::Internal, "INTERNAL");
    }

    #[test]
    fn every_engine_and_backend_error_has_its_code_and_reason() {
        let key = || "a/b/1".to_owned();
        let message = || "because".to_owned();
        check(
            EngineError::NotFound { what: Resource::Run, key: key() },
            Code::NotFound,
            "RUN_NOT_FOUND",
        );
        check(EngineError::Disabled { key: key() }, Code::FailedPrecondition, "PIPELINE_DISABLED");
        check(
            EngineError::Invalid(vec![Violation::new("f", "v", "r")]),
            Code::InvalidArgument,
            "INVALID_INPUT",
        );
        check(
            EngineError::NotComplete { key: key() },
            Code::FailedPrecondition,
            "RUN_NOT_COMPLETE",
        );
        check(
            EngineError::Unsupported { message: message() },
            Code::FailedPrecondition,
            "UNSUPPORTED",
        );
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
        assert_eq!(status.get_details_error_info().unwrap().metadata[LEFT_OUT], "80");
        assert_eq!(fields[0].field, "tasks[0].id");
        assert_eq!(fields[0].description, "a rule (got `A b`)");
    }

    /// Every variant of every error that becomes a status, with this text wherever a text goes.
    fn every_error(text: &str) -> Vec<ApiError> {
        let key = || text.to_owned();
        let message = || text.to_owned();
        let id = || "a/b/1/c/1".parse::<gofer_core::ExecutionId>().unwrap();
        let too_many = || TooManyMasks { run: id().run };
        let mut all = vec![
            ApiError::Invalid(
                (0..3).map(|_| Violation { field: key(), value: key(), rule: key() }).collect(),
            ),
            ApiError::Invalid((0..1000).map(|_| Violation::new("f", "v", "r")).collect()),
            ApiError::Unauthenticated(TokenProblem::Missing),
            ApiError::Unauthenticated(TokenProblem::Malformed),
            ApiError::Unauthenticated(TokenProblem::Unknown),
            ApiError::Unauthenticated(TokenProblem::Expired),
            ApiError::Unauthenticated(TokenProblem::Disabled),
            ApiError::Unauthenticated(TokenProblem::OwnMissing),
            ApiError::Unauthenticated(TokenProblem::NamespaceGone),
            Foreign::Origin(key()).into(),
            Foreign::Site(key()).into(),
            Foreign::Host(key()).into(),
            Foreign::Proxy(key()).into(),
            ApiError::Forbidden { message: message() },
            ApiError::Precondition { reason: "UPLOAD_NOT_THERE", message: message() },
            ApiError::VersionConflict { expected: 1, latest: 2 },
            ApiError::ObjectTooLarge { limit_bytes: 1, at_least_bytes: 2 },
            ApiError::NotInThisVersion { what: "triggers" },
            ApiError::NoSuchMethod { path: key() },
            ApiError::TooSlow { seconds: 1 },
            ApiError::TooLarge { what: key(), found: 2, limit: 1 },
            ApiError::Malformed { problem: key() },
            ApiError::RequestIncomplete,
            ApiError::ShareSpent { limit_bytes: 1 },
            ApiError::NoMemory,
            ApiError::TooManyCalls { limit: 1 },
            ApiError::Idle { seconds: 1 },
            ApiError::ShuttingDown,
            ApiError::Broken,
            ApiError::CutOff { message: message() },
            DbError::Disabled { key: key() }.into(),
            DbError::LastManagementToken { id: key() }.into(),
            DbError::TooManyMasks(too_many()).into(),
            EngineError::TooManyMasks(too_many()).into(),
            DbError::Variables(vec![Violation { field: key(), value: key(), rule: key() }]).into(),
            DbError::Conflict { message: message() }.into(),
            DbError::Invalid { field: "f", value: key(), rule: "r" }.into(),
            DbError::Config { message: message() }.into(),
            DbError::Locked { database: key(), holder: key() }.into(),
            DbError::Unavailable { message: message(), source: Some(text.into()) }.into(),
            DbError::Exhausted { source: None }.into(),
            DbError::Corrupt { message: message(), source: None }.into(),
            DbError::Internal { message: message(), source: None }.into(),
            EngineError::LogGone { id: id() }.into(),
            EngineError::Disabled { key: key() }.into(),
            EngineError::Invalid(vec![Violation { field: key(), value: key(), rule: key() }])
                .into(),
            EngineError::NotComplete { key: key() }.into(),
            EngineError::NotRunning { key: key(), state: "starting" }.into(),
            EngineError::Unsupported { message: message() }.into(),
            EngineError::Stopped.into(),
        ];

        for what in Resource::ALL {
            all.push(ApiError::NotFound { what, key: key() });
            all.push(ApiError::AlreadyExists { what, key: key() });
            all.push(ApiError::ContentLost { what, key: key() });
            all.push(DbError::NotFound { what, key: key() }.into());
            all.push(DbError::AlreadyExists { what, key: key() }.into());
            all.push(EngineError::NotFound { what, key: key() }.into());
        }

        for kind in
            [ErrorKind::NotFound, ErrorKind::Invalid, ErrorKind::Exhausted, ErrorKind::Internal]
        {
            all.push(BackendError::new(kind, text).into());
            all.push(EngineError::Backend(BackendError::new(kind, text)).into());
        }

        all
    }

    #[test]
    fn every_reason_is_an_identifier() {
        for error in every_error("text") {
            let message = error.to_string();
            let reason = Status::from(error).get_details_error_info().unwrap().reason;
            // As `google.rpc.ErrorInfo` says: `[A-Z][A-Z0-9_]+[A-Z0-9]`, at most 63 characters.
            let bytes = reason.as_bytes();
            let ends = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
            let legal = (3..=63).contains(&bytes.len())
                && bytes[0].is_ascii_uppercase()
                && ends(bytes[bytes.len() - 1])
                && bytes.iter().all(|&byte| ends(byte) || byte == b'_');
            assert!(legal, "`{reason}` of: {message}");
        }
    }

    #[test]
    fn whatever_is_long_fits_into_headers() {
        for text in ["x".repeat(1 << 20), "ä` ".repeat(1 << 18), "\u{0}\n".repeat(1 << 19)] {
            for error in every_error(&text) {
                let status = Status::from(error);
                let reason = status.get_details_error_info().unwrap().reason;
                let headers = status.to_http_headers_bytes();
                assert!(headers <= 12 * 1024, "{reason}: {headers} bytes");
                assert!(!status.message().is_empty(), "{reason}");
            }
        }
    }

    trait HeaderBytes {
        fn to_http_headers_bytes(&self) -> usize;
    }

    impl HeaderBytes for Status {
        /// As HTTP/2 counts them: name, value, and 32 bytes more of each.
        fn to_http_headers_bytes(&self) -> usize {
            let mut headers = http::HeaderMap::new();
            self.add_header(&mut headers).unwrap();
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
        }
    }
}
