//! Why a call is not answered as its caller asked. `rpc/status` turns it into what travels.

use gofer_core::id::InvalidId;
use gofer_core::quota::QuotaExceeded;
use gofer_core::validate::Violation;
use gofer_core::{BackendError, Resource};
use gofer_db::DbError;
use gofer_engine::EngineError;

/// Why a call is not answered as its caller asked; one variant per thing a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{}", gofer_core::validate::joined(.0))]
    Invalid(Vec<Violation>),
    #[error("{0}")]
    Unauthenticated(TokenProblem),
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("{message}")]
    Forbidden { message: String },
    #[error("{what} `{key}` does not exist")]
    NotFound { what: Resource, key: String },
    #[error("{what} `{key}` exists already")]
    AlreadyExists { what: Resource, key: String },
    #[error("{what} `{key}` has a record, and its content is not in the store; put it again")]
    ContentLost { what: Resource, key: String },
    #[error("{message}")]
    Precondition { reason: &'static str, message: String },
    #[error(
        "the latest version is {latest}, not {expected}; look at what changed and register again"
    )]
    VersionConflict { expected: u64, latest: u64 },
    #[error(
        "an object has at most {limit_bytes} bytes (`limits.object_max_bytes`); this one has \
         {at_least_bytes} or more"
    )]
    ObjectTooLarge { limit_bytes: u64, at_least_bytes: u64 },
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    #[error(
        "the disk for objects has {free_bytes} bytes left, and uploads stop below {min_bytes} \
         (`limits.free_disk_min`) so that the server goes on; free space, or upload later"
    )]
    DiskFull { free_bytes: u64, min_bytes: u64 },
    #[error(
        "{limit} commands run in tasks through this server, as many as may \
         (`limits.exec_sessions`); end some of them"
    )]
    ExecSessionsFull { limit: usize },
    #[error(
        "{bytes} bytes arrived in {seconds} s, which is less than {rate} bytes per second \
         (`limits.upload_min_rate`); the upload is given up"
    )]
    UploadTooSlow { bytes: u64, seconds: u64, rate: u64 },
    #[error(
        "events after {after} were deleted by retention, and {oldest} is the oldest that is kept; \
         look at how things are, and go on after {}",
        oldest - 1
    )]
    EventsExpired { after: u64, oldest: u64 },
    #[error("{what} is not available in this version of gofer")]
    NotInThisVersion { what: &'static str },
    #[error("there is no method `{path}`")]
    NoSuchMethod { path: String },
    #[error("no answer within {seconds} s; whether the call took effect is not known")]
    TooSlow { seconds: u64 },
    #[error("a request has at most {limit} {what}; this one has {found} or more")]
    TooLarge { what: String, found: u64, limit: u64 },
    #[error("the request cannot be read: {problem}")]
    Malformed { problem: String },
    #[error("the request was not complete in time; nothing was done")]
    RequestIncomplete,
    #[error(
        "this caller's requests and answers have all of the {limit_bytes} bytes of memory that one \
         may have; let some end"
    )]
    ShareSpent { limit_bytes: u64 },
    #[error(
        "the requests that are being handled have all memory that the server has for them \
         (`limits.request_memory`)"
    )]
    NoMemory,
    #[error(
        "there are {limit} calls without a token on this connection already; wait for one to end"
    )]
    TooManyCalls { limit: usize },
    #[error("nothing arrived for {seconds} s; the stream is given up")]
    Idle { seconds: u64 },
    #[error("the server is shutting down; call again")]
    ShuttingDown,
    #[error("the handler of this call failed; the server's log has more")]
    Broken,
    #[error("the stream of the call ended early: {message}")]
    CutOff { message: String },
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Why a call is refused for where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Foreign {
    #[error(
        "a page of `{0}` calls; this server answers pages of the origins in `server.cors_origins` \
         only"
    )]
    Origin(String),
    #[error("a page of another site calls (`sec-fetch-site: {0}`); this server answers none")]
    Site(String),
    #[error(
        "a call without a token names this server `{0}`; send a token, call it by address, or list \
         the name in `server.hosts`"
    )]
    Host(String),
    #[error(
        "a call without a token came through a proxy (`{0}`); send a token, or list the proxy's \
         address in `server.trusted_proxies`"
    )]
    Proxy(String),
}

/// What is wrong with the credentials of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenProblem {
    #[error("this server asks for a token; send `authorization: Bearer <token>`")]
    Missing,
    #[error("the `authorization` header is not `Bearer <token>`")]
    Malformed,
    #[error("the token is not known here; it may have been deleted, or its run is complete")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token is disabled")]
    Disabled,
    #[error(
        "this server asks for its own token, which is in the file `token` of its data directory; \
         send `authorization: Bearer <token>`"
    )]
    OwnMissing,
    #[error("a namespace of the token was deleted; call again for the others")]
    NamespaceGone,
}

impl ApiError {
    /// One broken rule.
    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl AsRef<str>,
        rule: impl Into<String>,
    ) -> Self {
        Self::Invalid(vec![Violation::new(field, value, rule)])
    }

    /// An identifier that is none.
    pub(crate) fn bad_id(field: impl Into<String>, error: &InvalidId) -> Self {
        Self::invalid(field, &error.value, error.rule)
    }

    /// The named thing does not exist.
    pub(crate) fn not_found(what: Resource, key: impl ToString) -> Self {
        Self::NotFound { what, key: key.to_string() }
    }
}
