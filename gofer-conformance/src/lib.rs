#![doc = include_str!("../README.md")]
//!
//! ## Suites
//!
//! A case is a plain `pub async fn` that panics when the contract is broken. A backend's test crate
//! writes a factory, an `async fn() -> H`, where `H` is a [`Harness`] that holds what the backend
//! needs to live (a temporary directory, a database of its own), and lets a macro emit one named
//! test per case:
//!
//! | macro | `H` implements |
//! |---|---|
//! | [`object_store_conformance!`](crate::object_store_conformance) | `Harness<dyn ObjectStore>` |
//! | [`secret_store_conformance!`](crate::secret_store_conformance) | `Harness<dyn SecretStore>` |
//! | [`scheduler_conformance!`](crate::scheduler_conformance) | `Harness<dyn Scheduler>` and [`scheduler::SchedulerHarness`], which adds the [`scheduler::Workloads`] ([`scheduler::ShellWorkloads`] on this machine) |
//! | [`journal_conformance!`](crate::journal_conformance) | `Harness<dyn Journal>` and [`journal::JournalFixture`], which adds namespaces, pipelines and events |
//!
//! ```ignore
//! struct LocalStore { dir: TempDir, store: Option<Arc<dyn ObjectStore>> }
//!
//! #[async_trait]
//! impl Harness<dyn ObjectStore> for LocalStore {
//!     fn backend(&self) -> Arc<dyn ObjectStore> { self.store.clone().expect("open") }
//!     async fn restart(&mut self) {
//!         self.store = None;
//!         self.store = Some(open(&self.dir).await);
//!     }
//! }
//!
//! async fn local_store() -> LocalStore { /* … */ }
//!
//! mod conformance {
//!     gofer_conformance::object_store_conformance!(super::local_store);
//! }
//! ```
//!
//! Each test calls the factory once, so every case has a backend of its own and may use any key. A
//! backend whose server is opt-in writes `object_store_conformance!(optional super::s3)` and an
//! `async fn() -> Option<H>` that prints why it skips. One that cannot keep the whole contract adds
//! `except EXCEPTIONS`, the names of cases with their reasons. The caller's crate needs `tokio` with the
//! features `macros` and `rt-multi-thread` as a dev-dependency.
//!
//! No case sleeps to see what happens: it waits for an event, or polls with [`eventually`] until
//! [`DEADLINE`].

mod faulty;
pub mod journal;
mod memory;
pub mod object_store;
mod random;
pub mod scheduler;
pub mod secret_store;
mod skip;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use faulty::{Faults, Faulty};
pub use memory::{
    MemoryJournal, MemoryObjectStore, MemoryScheduler, MemorySecretStore, MemoryWorkloads,
};
pub use random::Random;
pub use skip::{say_skipped, skip};

/// How long [`eventually`] waits. Generous: a busy machine must not fail a suite.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long one case may take before it counts as hung.
const CASE_DEADLINE: Duration = Duration::from_secs(180);

/// A backend under test, and what it needs to live.
#[async_trait]
pub trait Harness<T: ?Sized + Send + Sync + 'static>: Send + Sync {
    /// The backend as it is now.
    fn backend(&self) -> Arc<T>;

    /// Lets go of the backend and opens it again on the same data, as a restarted server would.
    async fn restart(&mut self);
}

/// Runs `probe` until it says `Ok`.
///
/// # Panics
/// When it has not within [`DEADLINE`], with what was waited for and the last state seen.
pub async fn eventually<T, F, P>(what: &str, mut probe: P) -> T
where
    P: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    let mut last = String::from("nothing was seen yet");
    let waiting = async {
        let mut pause = Duration::from_millis(1);
        loop {
            match probe().await {
                Ok(value) => return value,
                Err(state) => last = state,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    };
    let outcome = tokio::time::timeout(DEADLINE, waiting).await;
    outcome.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}; last seen: {last}"))
}

/// Waits for a future that must not hang.
///
/// # Panics
/// When it has not ended within [`DEADLINE`].
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// Runs one case; what the macros call.
///
/// # Panics
/// When the case hangs.
#[doc(hidden)]
pub async fn run_case<F: Future<Output = ()>>(name: &str, case: F) {
    let outcome = tokio::time::timeout(CASE_DEADLINE, case).await;
    assert!(outcome.is_ok(), "case `{name}` did not end within {CASE_DEADLINE:?}");
}

/// Whether a backend cannot keep this case of the contract, which it then says with its reason.
#[doc(hidden)]
#[must_use]
pub fn is_excepted(case: &str, exceptions: &[(&str, &str)]) -> bool {
    let reason = exceptions.iter().find(|(name, _)| *name == case).map(|(_, reason)| reason);
    if let Some(reason) = reason {
        say_skipped(case, reason);
    }
    reason.is_some()
}

/// Emits the tests of one suite; what the four public macros expand to.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ([optional $factory:path, except $exceptions:path] $suite:ident $($module:ident { $($case:ident)+ })+) => {
        $($(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if $crate::is_excepted(stringify!($case), $exceptions) {
                    return;
                }
                let Some(mut harness) = $factory().await else { return };
                let case = $crate::$suite::$module::$case(&mut harness);
                $crate::run_case(stringify!($case), case).await;
            }
        )+)+

        #[test]
        fn every_exception_is_a_case_of_the_suite() {
            let cases = [$($(stringify!($case)),+),+];
            for (case, reason) in $exceptions {
                assert!(cases.contains(case), "`{case}` ({reason}) is no case");
            }
        }
    };
    ([optional $factory:path] $suite:ident $($module:ident { $($case:ident)+ })+) => { $($(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $case() {
            let Some(mut harness) = $factory().await else { return };
            let case = $crate::$suite::$module::$case(&mut harness);
            $crate::run_case(stringify!($case), case).await;
        }
    )+)+ };
    ([$factory:path] $suite:ident $($module:ident { $($case:ident)+ })+) => { $($(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $case() {
            let mut harness = $factory().await;
            let case = $crate::$suite::$module::$case(&mut harness);
            $crate::run_case(stringify!($case), case).await;
        }
    )+)+ };
}
