//! The run state machine and its driver.
