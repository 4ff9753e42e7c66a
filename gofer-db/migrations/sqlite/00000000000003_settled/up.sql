-- A live log that is known to be empty: its execution may be forgotten at the scheduler, which is not recorded yet.
ALTER TABLE attempts ADD COLUMN silent INTEGER NOT NULL DEFAULT 0 CHECK (silent IN (0, 1));
