//! The contract of every scheduler.

use crate::acl;
use crate::agent::Agent;
use crate::isolated::Isolated;
use crate::support::Setup;

async fn fake() -> Setup {
    Setup::fake().await
}

async fn real() -> Option<Setup> {
    let agent = Agent::find("conformance of the nomad scheduler on a real agent")?;
    Some(Setup::real(&acl::with_exec(&agent).await, |_| {}).await)
}

async fn exec() -> Option<Isolated> {
    Isolated::exec("conformance of the nomad scheduler with exec").await
}

mod on_the_fake {
    gofer_core::scheduler_conformance!(super::fake);
}

mod on_a_real_agent {
    gofer_core::scheduler_conformance!(optional super::real);
}

mod on_a_real_agent_with_exec {
    gofer_core::scheduler_conformance!(optional super::exec);
}
