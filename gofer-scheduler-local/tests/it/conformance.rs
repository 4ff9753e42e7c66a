//! The contract of every scheduler.

use crate::support::Local;

async fn local() -> Local {
    Local::open().await
}

mod scheduler {
    gofer_conformance::scheduler_conformance!(super::local);
}
