-- The limits that a namespace has of its own, as JSON by the quota's name.
ALTER TABLE namespaces ADD COLUMN quotas TEXT NOT NULL DEFAULT '{}';

-- What a pipeline uses is counted in its row, under the lock that every change of it takes. A namespace uses the sum.
-- The last minute in which runs were started, how many, and the bytes of their variables.
ALTER TABLE pipelines ADD COLUMN minute INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pipelines ADD COLUMN minute_runs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pipelines ADD COLUMN minute_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pipelines ADD COLUMN versions INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pipelines ADD COLUMN version_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pipelines ADD COLUMN object_bytes INTEGER NOT NULL DEFAULT 0;
-- Of uploads by URL that are open.
ALTER TABLE pipelines ADD COLUMN upload_bytes INTEGER NOT NULL DEFAULT 0;

-- What an open upload is counted with: what it declared, else the longest object there may be.
ALTER TABLE object_uploads ADD COLUMN reserved_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE object_uploads SET reserved_bytes = coalesce(size_bytes, 5368709120) WHERE state = 'open';

UPDATE pipelines SET
    versions = (SELECT count(*) FROM pipeline_versions WHERE pipeline_id = pipelines.id),
    version_bytes = (SELECT coalesce(sum(octet_length(spec)), 0) FROM pipeline_versions WHERE pipeline_id = pipelines.id),
    object_bytes = (SELECT coalesce(sum(size_bytes), 0) FROM objects WHERE pipeline_id = pipelines.id),
    upload_bytes = (SELECT coalesce(sum(reserved_bytes), 0) FROM object_uploads
        WHERE pipeline_id = pipelines.id AND state = 'open');
CREATE INDEX pipelines_by_minute ON pipelines (namespace, minute);

-- Of an archived log, as it is stored. Those from before are not counted.
ALTER TABLE attempts ADD COLUMN log_bytes INTEGER NOT NULL DEFAULT 0;

-- The same index, with what is counted of a namespace in it.
DROP INDEX runs_unfinished;
CREATE INDEX runs_unfinished ON runs (namespace, id, state) WHERE state <> 'complete';

-- What retention deletes, oldest first.
CREATE INDEX runs_by_end ON runs (ended_at) WHERE state = 'complete';

-- Servers that live: each says so before `until` is past.
CREATE TABLE servers (
    name TEXT NOT NULL PRIMARY KEY,
    until INTEGER NOT NULL
) STRICT;

-- Commands that run in tasks. They end with their server, and so do their rows.
CREATE TABLE exec_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    server TEXT NOT NULL,
    namespace TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    run INTEGER NOT NULL,
    task TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX exec_sessions_by_task ON exec_sessions (namespace, pipeline, run, task);
