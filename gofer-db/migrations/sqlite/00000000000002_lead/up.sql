-- The right to do what one server does for all: one row, free when `until` is past.
CREATE TABLE lead (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    owner TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT;
INSERT INTO lead (id, owner, until) VALUES (1, '', 0);

-- In which incarnation of the scheduler the current attempt was intended; the bits of a number without sign.
ALTER TABLE task_runs ADD COLUMN incarnation INTEGER NOT NULL DEFAULT 0;
