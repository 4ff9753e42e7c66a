//! Runs executions as processes on this machine.
