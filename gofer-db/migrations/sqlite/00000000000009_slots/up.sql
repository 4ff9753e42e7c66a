-- The right to have an execution in flight is a slot, in events as everywhere.
UPDATE events
SET type = 'task_run_slot_acquired', details = '{"type":"task_run_slot_acquired"}'
WHERE type = 'task_run_placed';
