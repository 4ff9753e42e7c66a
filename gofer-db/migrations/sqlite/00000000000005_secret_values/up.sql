-- Where each secret's value lies in the secret store. Those that were put before lie where their scope and key say.
ALTER TABLE secrets ADD COLUMN location TEXT NOT NULL DEFAULT '';
UPDATE secrets SET location = 'global/' || key WHERE pipeline_id = 0;
UPDATE secrets SET location = 'pipeline/' || pipelines.namespace || '/' || pipelines.name || '/' || secrets.key
    FROM pipelines WHERE pipelines.id = secrets.pipeline_id;

-- Values that no row of `secrets` names: those that are being put, and those that are to be deleted.
CREATE TABLE secret_values (
    location TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('being_put', 'unnamed')),
    -- Since when it is so.
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX secret_values_by_age ON secret_values (at);
