//! Why drivers cannot keep the whole contract of schedulers, where several have the same reason.

/// The first process of a namespace.
pub(crate) const FIRST: &str = "no signal of its own ends process 1";
/// They have the capability.
pub(crate) const UNASKED: &str = "it is about schedulers that cannot run commands in executions";
