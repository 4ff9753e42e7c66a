//! What happens in the cluster.

pub(crate) mod tracker;
pub(crate) mod watch;
