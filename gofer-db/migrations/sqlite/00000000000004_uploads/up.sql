-- Uploads by URL, from their beginning until retention forgets them. The bytes lie at `location`; a row of `objects` names
-- them from the completion on.
CREATE TABLE object_uploads (
    id TEXT NOT NULL PRIMARY KEY,
    pipeline_id INTEGER NOT NULL REFERENCES pipelines (id),
    run INTEGER NOT NULL,
    key TEXT NOT NULL,
    location TEXT NOT NULL,
    -- As declared by who began it.
    size_bytes INTEGER,
    sha256 TEXT,
    if_absent INTEGER NOT NULL CHECK (if_absent IN (0, 1)),
    -- When the URL ends.
    expires_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'complete', 'given_up')),
    -- What the completion was answered with.
    outcome TEXT,
    CHECK ((state = 'complete') = (outcome IS NOT NULL))
) STRICT;
CREATE INDEX object_uploads_by_end ON object_uploads (expires_at);
CREATE INDEX object_uploads_open ON object_uploads (pipeline_id) WHERE state = 'open';
