//! PostgreSQL under the server: stopped and started, and behind a network that fails.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tonic::Code;

use super::dice::Dice;
use super::disk::{refused_for, until_refused};
use super::load::Load;
use super::proxy::Proxy;
use super::volume::skip;
use super::whole::Logs;
use super::{shapes, whole};
use crate::harness::text;
use crate::serving::Serving;

const CLIENTS: u64 = 8;
/// How long things go well before and between outages.
const WELL: Duration = Duration::from_secs(2);
/// How long an outage lasts: longer than the leases of [`serve`].
const OUTAGE: Duration = Duration::from_secs(4);
/// The server's limit for a call is 30 s, and its answer takes a moment.
const LONGEST_CALL: Duration = Duration::from_secs(32);
/// What a call may answer while the database is away.
const AWAY: [(&str, Code); 2] =
    [("DATABASE_UNAVAILABLE", Code::Unavailable), ("BACKEND_UNAVAILABLE", Code::Unavailable)];

/// A PostgreSQL server of the test's own.
pub(crate) struct Postgres {
    dir: TempDir,
    pub(crate) url: String,
}

impl Postgres {
    /// `None`, printed, where there is no PostgreSQL and none is required.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if let Err(why) = testbed("postgres_bin >/dev/null", &[]) {
            let required = std::env::var("GOFER_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("postgres"), "GOFER_TEST_REQUIRE names postgres: {why}");
            skip(test, "no PostgreSQL is installed");
            return None;
        }

        let dir = tempfile::tempdir().expect("a folder");
        // The database's user has to get through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))
            .expect("permissions");
        let place = dir.path().join("postgres");

        // What it says is committed must be there after it was stopped hard.
        let start = "POSTGRES_CONF='synchronous_commit = on' postgres_start \"$1\"; printf %s \
                     \"$POSTGRES_URL\"";
        let url = testbed(start, &[text(&place)]).unwrap_or_else(|error| panic!("{error}"));

        Some(Self { dir, url })
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("postgres")
    }

    fn addr(&self) -> SocketAddr {
        let (_, rest) = self.url.rsplit_once('@').expect("a URL with a password");
        rest.split('/').next().and_then(|addr| addr.parse().ok()).expect("an address")
    }

    /// The URL by way of another address.
    fn url_by(&self, addr: SocketAddr) -> String {
        self.url.replace(&self.addr().to_string(), &addr.to_string())
    }

    /// `fast` breaks off what is under way; `immediate` does not even tidy up.
    fn stop(&self, mode: &str) {
        testbed("postgres_halt \"$1\" \"$2\"", &[text(&self.place()), mode]).expect("it stops");
    }

    fn start_again(&self) {
        let port = self.addr().port().to_string();
        testbed("postgres_resume \"$1\" \"$2\"", &[text(&self.place()), &port]).expect("it starts");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = testbed("postgres_halt \"$1\" immediate", &[text(&self.place())]);
    }
}

/// Runs a line of shell with the functions of `testbed/postgres.sh`.
fn testbed(line: &str, args: &[&str]) -> Result<String, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/postgres.sh");
    let line = format!("set -eu; source {script}; {line}");
    let output = Command::new("bash")
        .args(["-c", &line, "testbed"])
        .args(args)
        .output()
        .map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn serve(url: &str) -> Serving {
    let config = format!(
        "[database]\nurl = \"{url}\"\nacquire_timeout = \"3s\"\npool_size = 6\n[engine]\nlease_ttl \
         = \"3s\"\n"
    );
    Serving::start_configured(tempfile::tempdir().expect("a folder"), &config)
}

/// A load on a server whose database is at `url`, while `happen` makes things happen.
fn under_load(test: &str, url: &str, happen: impl FnOnce(&Serving)) {
    let dice = Dice::new(test);
    let dir = tempfile::tempdir().expect("a folder");
    let marks = dir.path().join("marks");
    let server = serve(url);

    for shape in shapes::ALL {
        server.up(&shape.pipeline(&marks));
    }

    let load = Load::start(&server, &dice, CLIENTS);
    std::thread::sleep(WELL);
    happen(&server);
    std::thread::sleep(WELL);

    let (done, seen) = load.finish();
    refused_for(&seen, &AWAY);
    assert!(seen.longest() < LONGEST_CALL, "a call took {:?}", seen.longest());
    whole::check(&server, &marks, &done, Logs::Whole);
}

#[test]
fn runs_wait_while_postgresql_is_stopped() {
    let test = "runs_wait_while_postgresql_is_stopped";
    let Some(postgres) = Postgres::start(test) else { return };
    under_load(test, &postgres.url, |server| {
        for mode in ["fast", "immediate"] {
            postgres.stop(mode);
            until_refused(server, 3);
            std::thread::sleep(OUTAGE);
            postgres.start_again();
            std::thread::sleep(WELL);
        }
    });
}

#[test]
fn runs_survive_connections_that_are_cut_delayed_and_half_closed() {
    let test = "runs_survive_connections";
    let Some(postgres) = Postgres::start(test) else { return };
    let proxy = Proxy::to(postgres.addr());
    under_load(test, &postgres.url_by(proxy.addr), |_| {
        for _ in 0..5 {
            proxy.cut();
            std::thread::sleep(WELL / 4);
        }

        proxy.delay(Duration::from_millis(20));
        std::thread::sleep(WELL);
        proxy.cut();
        std::thread::sleep(WELL);
        proxy.delay(Duration::ZERO);

        for _ in 0..3 {
            proxy.half_close();
            std::thread::sleep(WELL / 2);
        }
    });
}

#[test]
fn runs_survive_a_black_hole_that_outlasts_their_leases() {
    let test = "runs_survive_a_black_hole";
    let Some(postgres) = Postgres::start(test) else { return };
    let proxy = Proxy::to(postgres.addr());
    under_load(test, &postgres.url_by(proxy.addr), |server| {
        proxy.black_hole(true);
        until_refused(server, 3);
        std::thread::sleep(OUTAGE);
        proxy.black_hole(false);
        std::thread::sleep(WELL);
    });
}
