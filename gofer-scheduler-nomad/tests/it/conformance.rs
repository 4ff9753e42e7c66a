//! The contract of every scheduler; `docker_log.rs` and `podman.rs` have what these cannot keep of
//! it.

use gofer_scheduler_nomad::NomadConfig;

use crate::acl;
use crate::agent::Agent;
use crate::fake::FakeNomad;
use crate::isolated::Isolated;
use crate::supervised::Supervised;
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

async fn docker() -> Option<Isolated> {
    Isolated::docker("conformance of the nomad scheduler with docker").await
}

/// With identities, on nodes that should have a supervisor and do not: everything is as without.
fn unsupervised(config: &mut NomadConfig) {
    config.identity = true;
    config.supervisor = Some("/nonexistent/gofer".to_owned());
}

async fn fake_without_binary() -> Setup {
    Setup::on_fake(FakeNomad::start().await, unsupervised).await
}

async fn real_without_binary() -> Option<Setup> {
    let agent = Agent::find("conformance without a supervisor on a real agent")?;
    Some(Setup::real(&acl::with_exec(&agent).await, unsupervised).await)
}

async fn supervised() -> Option<Supervised> {
    Supervised::find("conformance with a supervisor that reports on a real agent").await
}

mod with_a_supervisor_on_a_real_agent {
    gofer_conformance::scheduler_conformance!(optional super::supervised);
}

mod without_a_supervisor_on_the_fake {
    gofer_conformance::scheduler_conformance!(super::fake_without_binary);
}

mod without_a_supervisor_on_a_real_agent {
    gofer_conformance::scheduler_conformance!(optional super::real_without_binary);
}

mod on_the_fake {
    gofer_conformance::scheduler_conformance!(super::fake);
}

mod on_a_real_agent {
    gofer_conformance::scheduler_conformance!(optional super::real);
}

mod on_a_real_agent_with_exec {
    gofer_conformance::scheduler_conformance!(optional super::exec);
}

mod on_a_real_agent_with_docker {
    gofer_conformance::scheduler_conformance!(optional super::docker);
}
