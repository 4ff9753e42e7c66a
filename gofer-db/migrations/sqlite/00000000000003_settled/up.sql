-- A live log that is known to be empty: its execution may be forgotten at the scheduler, which is not recorded yet.
ALTER TABLE attempts ADD COLUMN silent INTEGER NOT NULL DEFAULT 0 CHECK (silent IN (0, 1));

-- What a server holds is counted whenever it takes more.
CREATE INDEX runs_held ON runs (lease_owner, lease_until) WHERE state = 'running';
