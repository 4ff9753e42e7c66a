//! For drivers that cannot keep the whole contract of schedulers: each case of the suite is held,
//! or named with what is missing.

use gofer_conformance::say_skipped;

/// Where the suite lists its cases.
const SUITE: &str = include_str!("../../../gofer-conformance/src/scheduler/mod.rs");

/// The first process of a namespace.
pub(crate) const FIRST: &str = "no signal of its own ends process 1";
/// They have the capability.
pub(crate) const UNASKED: &str = "it is about schedulers that cannot run commands in executions";

macro_rules! held {
    ($harness:expr; $($module:ident { $($case:ident)+ })+) => {
        const HELD: &[&str] = &[$($(stringify!($case)),+),+];
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let Some(mut harness) = $harness.await else { return };
                let suite = gofer_conformance::scheduler::$module::$case(&mut harness);
                gofer_conformance::run_case(stringify!($case), suite).await;
            }
        )+)+
    };
}
pub(crate) use held;

/// What is missing, of what; goes with a list of what is held.
macro_rules! not_held {
    ($what:expr; $($why:ident: $($case:ident)+;)+) => {
        #[test]
        fn every_case_is_held_or_is_named_with_its_reason() {
            crate::partly::every_case_is_named($what, HELD, &[$($((stringify!($case), $why)),+),+]);
        }
    };
}
pub(crate) use not_held;

/// A case that is added to the suite is held here, too, or has a reason.
pub(crate) fn every_case_is_named(what: &str, held: &[&str], not_held: &[(&str, &str)]) {
    let (_, list) = SUITE.split_once("[$($factory)+] scheduler\n").expect("the suite's list");
    let (list, _) = list.split_once("\n        }\n    };").expect("its end");
    let listed: Vec<&str> = list
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains(['{', '}']))
        .collect();

    for case in &listed {
        let held = held.iter().filter(|held| *held == case).count();
        let named = not_held.iter().filter(|(named, _)| named == case).count();
        assert_eq!(held + named, 1, "`{case}` is held {held} times and named {named} times");
    }

    assert_eq!(listed.len(), held.len() + not_held.len(), "a case that the suite does not have");
    for (case, why) in not_held {
        say_skipped(&format!("{what}: {case}"), why);
    }
}
