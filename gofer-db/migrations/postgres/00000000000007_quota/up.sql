-- The limits that a namespace has of its own, as JSON by the quota's name.
ALTER TABLE namespaces ADD COLUMN quotas TEXT NOT NULL DEFAULT '{}';

-- What a pipeline uses is counted in its row, under the lock that every change of it takes. A namespace uses the sum.
ALTER TABLE pipelines
    -- The last minute in which runs were started, how many, and the bytes of their variables.
    ADD COLUMN minute BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN minute_runs BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN minute_bytes BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN versions BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN version_bytes BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN object_bytes BIGINT NOT NULL DEFAULT 0,
    -- Of uploads by URL that are open.
    ADD COLUMN upload_bytes BIGINT NOT NULL DEFAULT 0;

-- What an open upload is counted with: what it declared, else the longest object there may be.
ALTER TABLE object_uploads ADD COLUMN reserved_bytes BIGINT NOT NULL DEFAULT 0;
UPDATE object_uploads SET reserved_bytes = coalesce(size_bytes, 5368709120) WHERE state = 'open';

UPDATE pipelines SET
    versions = (SELECT count(*) FROM pipeline_versions WHERE pipeline_id = pipelines.id),
    version_bytes = (SELECT coalesce(sum(octet_length(spec)), 0) FROM pipeline_versions WHERE pipeline_id = pipelines.id),
    object_bytes = (SELECT coalesce(sum(size_bytes), 0) FROM objects WHERE pipeline_id = pipelines.id),
    upload_bytes = (SELECT coalesce(sum(reserved_bytes), 0) FROM object_uploads
        WHERE pipeline_id = pipelines.id AND state = 'open');
CREATE INDEX pipelines_by_minute ON pipelines (namespace, minute);

-- Of an archived log, as it is stored. Those from before are not counted.
ALTER TABLE attempts ADD COLUMN log_bytes BIGINT NOT NULL DEFAULT 0;

-- The same index, with what is counted of a namespace in it.
DROP INDEX runs_unfinished;
CREATE INDEX runs_unfinished ON runs (namespace, id, state) WHERE state <> 'complete';

-- What retention deletes, oldest first.
CREATE INDEX runs_by_end ON runs (ended_at) WHERE state = 'complete';

-- Servers that live: each says so before `until` is past.
CREATE TABLE servers (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    until BIGINT NOT NULL
);

-- Commands that run in tasks. They end with their server, and so do their rows.
CREATE TABLE exec_sessions (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    server TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    pipeline TEXT COLLATE "C" NOT NULL,
    run BIGINT NOT NULL,
    task TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX exec_sessions_by_task ON exec_sessions (namespace, pipeline, run, task);
