//! Every error has its code and reason, and fits into headers.

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
    assert_eq!(retry == Some(RETRY_FULL_AFTER), reason.ends_with("_FULL"), "{reason}: {retry:?}");
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
    check(ApiError::Unauthenticated(TokenProblem::Missing), Code::Unauthenticated, "TOKEN_MISSING");
    check(
        ApiError::Unauthenticated(TokenProblem::Malformed),
        Code::Unauthenticated,
        "TOKEN_MALFORMED",
    );
    check(ApiError::Unauthenticated(TokenProblem::Unknown), Code::Unauthenticated, "TOKEN_UNKNOWN");
    check(ApiError::Unauthenticated(TokenProblem::Expired), Code::Unauthenticated, "TOKEN_EXPIRED");
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
    check(ApiError::not_found(Resource::TaskRun, "a/b/1/c"), Code::NotFound, "TASK_RUN_NOT_FOUND");
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
    check(ApiError::VersionConflict { expected: 1, latest: 2 }, Code::Aborted, "VERSION_CONFLICT");

    let too_large = ApiError::ObjectTooLarge { limit_bytes: 1, at_least_bytes: 2 };
    check(too_large, Code::ResourceExhausted, "OBJECT_TOO_LARGE");
    check(
        ApiError::NotInThisVersion { what: "triggers" },
        Code::Unimplemented,
        "NOT_IN_THIS_VERSION",
    );
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
    check(DbError::NotFound { what: Resource::Run, key: key() }, Code::NotFound, "RUN_NOT_FOUND");
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
    let metadata = Status::from(ApiError::from(refused)).get_details_error_info().unwrap().metadata;
    let told = ["quota", "namespace", "limit", "used", "wanted"].map(|name| metadata[name].clone());

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
    check(DbError::Locked { database: key(), holder: key() }, Code::Internal, "DATABASE_CONFIG");
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
    assert_eq!(fields.len(), VIOLATIONS_MAX);
    assert_eq!(status.get_details_error_info().unwrap().metadata[LEFT_OUT_KEY], "80");
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
        EngineError::Invalid(vec![Violation { field: key(), value: key(), rule: key() }]).into(),
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

    for kind in [ErrorKind::NotFound, ErrorKind::Invalid, ErrorKind::Exhausted, ErrorKind::Internal]
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
