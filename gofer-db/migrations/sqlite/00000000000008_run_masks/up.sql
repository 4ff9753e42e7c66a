-- Values that a run has added to what is masked in its logs: where each lies in the secret store. A row outlives its run's, so that
-- retention finds the value of a pipeline that was deleted.
CREATE TABLE run_masks (
    location TEXT NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    run INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX run_masks_of_run ON run_masks (namespace, pipeline, run);
