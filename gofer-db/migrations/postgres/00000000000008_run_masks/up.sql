-- Values that a run has added to what is masked in its logs: where each lies in the secret store. A row outlives its run's, so that
-- retention finds the value of a pipeline that was deleted.
CREATE TABLE run_masks (
    location TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace TEXT COLLATE "C" NOT NULL,
    pipeline TEXT COLLATE "C" NOT NULL,
    run BIGINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX run_masks_of_run ON run_masks (namespace, pipeline, run);
