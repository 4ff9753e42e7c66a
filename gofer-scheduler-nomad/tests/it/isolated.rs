//! The drivers exec and docker, whose tasks see little of the machine: the workloads' gates and
//! marks lie in a volume of the agent's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use gofer_conformance::Harness;
use gofer_conformance::scheduler::{SchedulerHarness, ShellWorkloads, Workloads};
use gofer_core::scheduler::{ExecutionSpec, Scheduler};
use gofer_scheduler_nomad::{HostDriver, ImageDriver};
use tempfile::TempDir;

use crate::agent::{self, Agent, skip};
use crate::support::{Setup, by_busybox};

/// The volume of `testbed/nomad.sh`.
const VOLUME: &str = "gofer-testbed";

/// A scheduler on a real agent with a driver that isolates.
pub(crate) struct Isolated {
    pub(crate) setup: Setup,
    workloads: Volume,
    _template: TempDir,
}

impl Isolated {
    /// With exec, where there is such an agent, and a directory that its tasks can see.
    pub(crate) async fn exec(test: &str) -> Option<Self> {
        let agent = Agent::with_driver(test, "exec").await?;
        // Not the first process of a namespace: that one no signal of its own ends.
        let config = "command = \"true\"\n pid_mode = \"host\"";
        Self::open(test, &agent, ImageDriver::Docker, job("exec", config), Volume::new).await
    }

    /// With docker, each workload being what its image's shell runs.
    pub(crate) async fn docker(test: &str) -> Option<Self> {
        Self::in_image(test, ImageDriver::Docker, by_its_shell).await
    }

    /// The same with podman.
    pub(crate) async fn podman(test: &str) -> Option<Self> {
        Self::in_image(test, ImageDriver::Podman, by_its_shell).await
    }

    /// With docker, each workload being what a program runs that Gofer does not know for a shell.
    pub(crate) async fn docker_with_any_program(test: &str) -> Option<Self> {
        Self::in_image(test, ImageDriver::Docker, |image, spec| {
            by_its_shell(image, by_busybox(spec))
        })
        .await
    }

    async fn in_image(
        test: &str,
        driver: ImageDriver,
        change: fn(&str, ExecutionSpec) -> ExecutionSpec,
    ) -> Option<Self> {
        let agent = Agent::with_driver(test, driver.as_str()).await?;
        let image = match driver {
            ImageDriver::Docker => agent::image(test)?,
            ImageDriver::Podman => agent::podman_image(test)?,
        };
        let config = "image = \"set-by-gofer\"\n network_mode = \"none\"";
        let volume = |shared: &str| Volume {
            change: Box::new(move |spec| change(&image, spec)),
            ..Volume::new(shared)
        };
        Self::open(test, &agent, driver, job(driver.as_str(), config), volume).await
    }

    async fn open(
        test: &str,
        agent: &Agent,
        image_driver: ImageDriver,
        job: impl Fn(&str) -> String,
        volume: impl FnOnce(&str) -> Volume,
    ) -> Option<Self> {
        let Some(shared) =
            std::env::var("GOFER_TEST_NOMAD_SHARED").ok().filter(|dir| !dir.is_empty())
        else {
            skip(test, "GOFER_TEST_NOMAD_SHARED names no directory that tasks can see");
            return None;
        };

        let template = tempfile::tempdir().expect("a directory for the template");
        let path = template.path().join("task.nomad.hcl");
        std::fs::write(&path, job(&shared)).expect("write the template");

        // Volumes need a right that Gofer itself does not.
        let agent = agent.with_token(&agent.root_token);
        let setup = Setup::real(&agent, |nomad| {
            nomad.host_driver = HostDriver::Exec;
            nomad.image_driver = image_driver;
            nomad.job_template = Some(path);
        })
        .await;

        Some(Self { setup, workloads: volume(&shared), _template: template })
    }
}

fn by_its_shell(image: &str, spec: ExecutionSpec) -> ExecutionSpec {
    ExecutionSpec { image: Some(image.to_owned()), ..spec }
}

/// A job for this driver with the volume at the same place as outside.
fn job(driver: &str, config: &str) -> impl Fn(&str) -> String {
    move |shared| {
        format!(
            "job \"t\" {{\n group \"g\" {{\n volume \"shared\" {{\n type = \"host\"\n source = \
             \"{VOLUME}\"\n }}\n task \"t\" {{\n driver = \"{driver}\"\n config {{\n {config}\n \
             }}\n volume_mount {{\n volume = \"shared\"\n destination = \"{shared}\"\n }}\n }}\n \
             }}\n}}\n"
        )
    }
}

#[async_trait]
impl Harness<dyn Scheduler> for Isolated {
    fn backend(&self) -> Arc<dyn Scheduler> {
        self.setup.backend()
    }

    async fn restart(&mut self) {
        self.setup.restart().await;
    }
}

impl SchedulerHarness for Isolated {
    fn workloads(&self) -> &dyn Workloads {
        &self.workloads
    }
}

/// The shell's workloads in a directory of the volume, changed for their driver.
pub(crate) struct Volume {
    shell: ShellWorkloads,
    change: Box<dyn Fn(ExecutionSpec) -> ExecutionSpec + Send + Sync>,
    own_root: bool,
    _dir: TempDir,
}

impl Volume {
    pub(crate) fn new(shared: &str) -> Self {
        let dir = tempfile::tempdir_in(Path::new(shared)).expect("a directory in the volume");
        // The tasks are somebody else's.
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), all).expect("a directory for everybody");
        Self {
            shell: ShellWorkloads::new(dir.path()),
            change: Box::new(|spec| spec),
            own_root: true,
            _dir: dir,
        }
    }

    /// The same, each workload changed before it is given out.
    pub(crate) fn changed(
        self,
        change: impl Fn(ExecutionSpec) -> ExecutionSpec + Send + Sync + 'static,
        own_root: bool,
    ) -> Self {
        Self { change: Box::new(change), own_root, ..self }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Workloads for Volume {
    fn exit(&self, code: u8) -> ExecutionSpec {
        (self.change)(self.shell.exit(code))
    }

    fn die(&self, signal: i32) -> ExecutionSpec {
        (self.change)(self.shell.die(signal))
    }

    fn command_not_found(&self) -> ExecutionSpec {
        (self.change)(self.shell.command_not_found())
    }

    fn print(&self, stdout: &[u8], stderr: &[u8]) -> ExecutionSpec {
        (self.change)(self.shell.print(stdout, stderr))
    }

    fn print_in_turn(&self, times: usize) -> ExecutionSpec {
        (self.change)(self.shell.print_in_turn(times))
    }

    fn print_line(&self, length: usize) -> ExecutionSpec {
        (self.change)(self.shell.print_line(length))
    }

    fn print_env(&self, name: &str) -> ExecutionSpec {
        (self.change)(self.shell.print_env(name))
    }

    fn has_own_root(&self) -> bool {
        self.own_root
    }

    fn print_working_dir(&self) -> ExecutionSpec {
        (self.change)(self.shell.print_working_dir())
    }

    fn until_stopped(&self) -> ExecutionSpec {
        (self.change)(self.shell.until_stopped())
    }

    fn ignoring_stop(&self) -> ExecutionSpec {
        (self.change)(self.shell.ignoring_stop())
    }

    fn tree(&self, mark: &str) -> ExecutionSpec {
        (self.change)(self.shell.tree(mark))
    }

    fn leave_a_child(&self) -> ExecutionSpec {
        (self.change)(self.shell.leave_a_child())
    }

    fn gated(&self, before: &[u8], gate: &str, after: &[u8]) -> ExecutionSpec {
        (self.change)(self.shell.gated(before, gate, after))
    }

    async fn release(&self, gate: &str) {
        self.shell.release(gate).await;
    }

    fn mark(&self, mark: &str, code: u8) -> ExecutionSpec {
        (self.change)(self.shell.mark(mark, code))
    }

    async fn marks(&self, mark: &str) -> usize {
        self.shell.marks(mark).await
    }

    fn probe(&self, script: &str, arguments: &[String]) -> Option<ExecutionSpec> {
        self.shell.probe(script, arguments).map(&self.change)
    }
}
