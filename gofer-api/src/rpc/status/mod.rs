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

use crate::error::{ApiError, Foreign, TokenProblem};

/// Whose reasons these are, in `google.rpc.ErrorInfo.domain`.
pub(crate) const DOMAIN: &str = "gofer";
/// Longest message of a status as it travels, percent-encoded in a header. Clients refuse more than
/// 16 KiB of headers together, with an error of their own that says nothing of the reason; this and
/// the details stay well below.
const MESSAGE_MAX_BYTES: usize = 4 * 1024;
/// Longest message inside the details, which repeat it.
const DETAILS_MESSAGE_MAX_BYTES: usize = 1024;
/// Most violations of one status; the first ones are enough to go on with.
const VIOLATIONS_MAX: usize = 20;
/// Longest field of a violation.
const FIELD_MAX_BYTES: usize = 256;
/// Longest rule of a violation, with the value that breaks it.
const RULE_MAX_BYTES: usize = 1024;
/// All violations of one status together. In a header they are base64, a third longer.
const VIOLATIONS_MAX_BYTES: usize = 3 * 1024;
/// How many violations a status has no room for, in `google.rpc.ErrorInfo.metadata`.
const LEFT_OUT_KEY: &str = "violations_left_out";
/// When to call again what is unavailable: a server that restarts, or a connection that broke, is
/// back soon.
const RETRY_UNAVAILABLE_AFTER: Duration = Duration::from_secs(1);
/// When to call again what has no room: somebody or something has to make some first.
const RETRY_FULL_AFTER: Duration = Duration::from_secs(5);

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
        let retry_after = (code == Code::Unavailable).then_some(RETRY_UNAVAILABLE_AFTER);
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
        Self {
            retry_after: Some(RETRY_FULL_AFTER),
            ..Self::new(Code::Unavailable, reason, message)
        }
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
            metadata.insert(LEFT_OUT_KEY.to_owned(), left_out.to_string());
        }

        details.set_error_info(shape.reason, DOMAIN, metadata);
        if !fields.is_empty() {
            details.set_bad_request(fields);
        }

        if shape.retry_after.is_some() {
            details.set_retry_info(shape.retry_after);
        }

        let message = shorten(&shape.message, MESSAGE_MAX_BYTES);
        if message.len() < shape.message.len() {
            tracing::warn!(reason = details.error_info().map(|info| info.reason.as_str()), message = %shape.message,
                "an error's message is too long to be sent whole");
        }

        let inner = Self::with_error_details(
            shape.code,
            shorten(&message, DETAILS_MESSAGE_MAX_BYTES),
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
            retry_after: Some(RETRY_UNAVAILABLE_AFTER),
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
    let mut room = VIOLATIONS_MAX_BYTES;
    let fits = |field: &FieldViolation| {
        let needed = field.field.len() + field.description.len();
        let fits = needed <= room;
        room = room.saturating_sub(needed);
        fits
    };
    violations.into_iter().take(VIOLATIONS_MAX).map(field_violation).take_while(fits).collect()
}

fn field_violation(violation: Violation) -> FieldViolation {
    let description = if violation.value.is_empty() {
        violation.rule
    } else {
        format!("{} (got `{}`)", violation.rule, violation.value)
    };
    FieldViolation::new(
        shorten(&violation.field, FIELD_MAX_BYTES),
        shorten(&description, RULE_MAX_BYTES),
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
mod tests;
