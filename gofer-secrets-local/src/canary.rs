//! The row that tells whether the key file belongs to this database.

/// Its path. It is the first of all paths, so a list that starts after it shows all others.
pub(crate) const CANARY: &str = "+";
pub(crate) const CANARY_VALUE: &str = "gofer";
