-- Times are microseconds since 1970 UTC; JSON is text. The PostgreSQL migration of the same name has the same tables.

CREATE TABLE namespaces (
    id TEXT NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
INSERT INTO namespaces (id, description, created_at, updated_at) VALUES ('default', '', 0, 0);

-- A deleted pipeline stays as a row, so that run and version numbers are never used twice.
CREATE TABLE pipelines (
    id INTEGER NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    latest_version INTEGER NOT NULL,
    last_run INTEGER NOT NULL,
    -- Of the latest version; NULL is no limit.
    parallelism INTEGER,
    overlap TEXT NOT NULL CHECK (overlap IN ('queue', 'skip', 'cancel_running')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER,
    UNIQUE (namespace, name)
) STRICT;

CREATE TABLE pipeline_versions (
    pipeline_id INTEGER NOT NULL REFERENCES pipelines (id),
    version INTEGER NOT NULL,
    spec TEXT NOT NULL,
    digest TEXT NOT NULL,
    registered_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (pipeline_id, version)
) STRICT;

CREATE TABLE runs (
    id INTEGER NOT NULL PRIMARY KEY,
    pipeline_id INTEGER NOT NULL REFERENCES pipelines (id),
    namespace TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'complete')),
    status TEXT CHECK (status IN ('successful', 'failed', 'cancelled')),
    reason TEXT,
    initiator TEXT NOT NULL,
    variables TEXT NOT NULL,
    retry_of INTEGER,
    cancel_at INTEGER,
    cancel_by TEXT,
    cancel_force INTEGER CHECK (cancel_force IN (0, 1)),
    cancel_message TEXT,
    token_nonce BLOB NOT NULL,
    token_hash BLOB NOT NULL,
    idempotency_key TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    -- Only a running run is leased; the epoch grows with every lease.
    lease_owner TEXT,
    lease_until INTEGER NOT NULL,
    lease_epoch INTEGER NOT NULL,
    CHECK ((state = 'complete') = (status IS NOT NULL)),
    UNIQUE (namespace, pipeline, number)
) STRICT;
CREATE INDEX runs_by_namespace ON runs (namespace, id);
-- What claims and lists look for stays small however many runs are complete.
CREATE INDEX runs_unfinished ON runs (namespace, id) WHERE state <> 'complete';
CREATE INDEX runs_pending ON runs (pipeline_id, id) WHERE state = 'pending';
CREATE INDEX runs_pending_cancel ON runs (id) WHERE state = 'pending' AND cancel_at IS NOT NULL;
CREATE INDEX runs_running ON runs (pipeline_id, id) WHERE state = 'running';
CREATE INDEX runs_lease ON runs (lease_until) WHERE state = 'running';
CREATE INDEX runs_unsuccessful ON runs (namespace, id) WHERE status <> 'successful';
CREATE UNIQUE INDEX runs_token ON runs (token_hash) WHERE state <> 'complete';
CREATE UNIQUE INDEX runs_idempotency ON runs (pipeline_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A task run has a row from its first change on. Without one it is pending at its first attempt, or, when its run was
-- complete from the start because there was no room for it, cancelled with it.
CREATE TABLE task_runs (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    task TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'starting', 'running', 'complete')),
    status TEXT CHECK (status IN ('successful', 'failed', 'cancelled', 'skipped', 'timed_out')),
    attempt INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    reason TEXT,
    exit_code INTEGER,
    not_before INTEGER,
    intended_at INTEGER,
    started_at INTEGER,
    ended_at INTEGER,
    cancel_at INTEGER,
    cancel_by TEXT,
    cancel_force INTEGER CHECK (cancel_force IN (0, 1)),
    cancel_message TEXT,
    stop TEXT,
    CHECK ((state = 'complete') = (status IS NOT NULL)),
    PRIMARY KEY (run_id, task)
) STRICT, WITHOUT ROWID;

-- Finished attempts only.
CREATE TABLE attempts (
    id INTEGER NOT NULL PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    task TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('successful', 'failed', 'cancelled', 'skipped', 'timed_out')),
    reason TEXT,
    exit_code INTEGER,
    intended_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER NOT NULL,
    log TEXT NOT NULL CHECK (log IN ('live', 'archived', 'empty', 'expired', 'lost')),
    UNIQUE (run_id, task, attempt)
) STRICT;
CREATE INDEX attempts_live ON attempts (id) WHERE log = 'live';
CREATE INDEX attempts_archived ON attempts (ended_at) WHERE log = 'archived';

-- Ids come from event_counter, as the last step of the transaction: gapless, and visible in order.
CREATE TABLE events (
    id INTEGER NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    namespace TEXT,
    pipeline TEXT,
    run INTEGER,
    task TEXT,
    attempt INTEGER,
    type TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_namespace ON events (namespace, id) WHERE namespace IS NOT NULL;
CREATE INDEX events_by_pipeline ON events (namespace, pipeline, id) WHERE pipeline IS NOT NULL;
CREATE INDEX events_by_run ON events (namespace, pipeline, run, id) WHERE run IS NOT NULL;

CREATE TABLE event_counter (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    last INTEGER NOT NULL
) STRICT;
INSERT INTO event_counter (id, last) VALUES (1, 0);

-- run 0 is the pipeline's own level.
CREATE TABLE objects (
    pipeline_id INTEGER NOT NULL REFERENCES pipelines (id),
    run INTEGER NOT NULL,
    key TEXT NOT NULL,
    location TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (pipeline_id, run, key)
) STRICT;
CREATE INDEX objects_by_age ON objects (pipeline_id, created_at) WHERE run = 0;

-- pipeline_id 0 is global. Values are in the secret store.
CREATE TABLE secrets (
    pipeline_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    allowed_namespaces TEXT NOT NULL,
    updated_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (pipeline_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('management', 'client')),
    namespaces TEXT NOT NULL,
    description TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    disabled INTEGER NOT NULL CHECK (disabled IN (0, 1))
) STRICT;
CREATE INDEX tokens_by_age ON tokens (created_at, id);

-- The embedded secret store's ciphertexts.
CREATE TABLE local_secrets (
    path TEXT NOT NULL PRIMARY KEY,
    key_id TEXT NOT NULL,
    ciphertext BLOB NOT NULL
) STRICT;

-- Things that happen once in the life of a database.
CREATE TABLE markers (
    name TEXT NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT;
