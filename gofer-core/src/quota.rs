//! Quotas: how much of what all namespaces share one of them may use.
//!
//! There is one table, at the top of this file. Configuration, wire, command line, documentation
//! and refusals read it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::NamespaceId;
use crate::time::Timestamp;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

/// Makes [`QuotaKind`] of the table.
macro_rules! quotas {
    ($($kind:ident, $name:literal, $unit:ident, $default:expr, $doc:literal, $remedy:literal;)+) => {
        /// What a quota counts. Its stable name is the key in `[quota]`, on the wire and on the
        /// command line.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum QuotaKind {
            $(#[doc = $doc] $kind,)+
        }

        impl QuotaKind {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The stable name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// What is counted.
            #[must_use]
            pub fn unit(self) -> QuotaUnit {
                match self { $(Self::$kind => QuotaUnit::$unit,)+ }
            }

            /// The limit where neither configuration nor namespace says another.
            #[must_use]
            pub fn default_limit(self) -> u64 {
                match self { $(Self::$kind => $default,)+ }
            }

            /// What it limits and what happens beyond, in one sentence without a full stop.
            #[must_use]
            pub fn doc(self) -> &'static str {
                match self { $(Self::$kind => $doc,)+ }
            }

            /// What makes room, in words that follow "; ".
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$kind => $remedy,)+ }
            }
        }
    };
}

// The defaults are generous: a namespace that meets one is in a loop, or should have been asked.
quotas! {
    Executions, "executions", Executions, 10_000,
        "executions in flight, shared out evenly among the servers; further ones wait",
        "wait for executions to end";
    ActiveRuns, "active_runs", Runs, 10_000,
        "runs that are worked on; further ones stay pending",
        "wait for runs to end";
    PendingRuns, "pending_runs", Runs, 10_000,
        "runs that wait to be worked on; a further one is refused",
        "wait for runs to begin, or cancel some";
    RunsPerMinute, "runs_per_minute", Runs, 60_000,
        "runs started within one minute of the clock; a further one is refused",
        "start it in the next minute";
    RunBytesPerMinute, "run_bytes_per_minute", Bytes, 256 * MIB,
        "bytes of variables of runs started within one minute of the clock; a run with more than 4 \
         KiB of them is refused beyond",
        "start it in the next minute, and pass large values as objects";
    Pipelines, "pipelines", Pipelines, 10_000,
        "names of pipelines, deleted ones included because their numbers are never used again; a \
         further one is refused",
        "register under a name that was used before";
    PipelineVersions, "pipeline_versions", Versions, 100_000,
        "versions of all pipelines that are kept; a further one is refused",
        "wait for retention to delete old ones, or delete pipelines";
    PipelineBytes, "pipeline_bytes", Bytes, 4 * GIB,
        "bytes of all versions that are kept; a version that takes more is refused",
        "wait for retention to delete old ones, or delete pipelines";
    ObjectBytes, "object_bytes", Bytes, TIB,
        "bytes of objects of pipelines and runs, open uploads included; an upload that takes more \
         is refused",
        "delete objects";
    LogBytes, "log_bytes", Bytes, 100 * GIB,
        "bytes of archived logs; beyond, the oldest are deleted before their time",
        "wait for retention to delete old ones";
    ExecSessions, "exec_sessions", Sessions, 32,
        "commands run in running tasks at once; a further one is refused",
        "end some of them";
    ExecSessionsPerTask, "exec_sessions_per_task", Sessions, 8,
        "the same of one task; a further one is refused",
        "end some of them";
    Secrets, "secrets", Secrets, 10_000,
        "secrets of all pipelines; a further one is refused",
        "delete secrets";
}

impl QuotaKind {
    /// The kind of a stable name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether this much more is within the limit.
    ///
    /// # Errors
    /// [`QuotaExceeded`], which says how much there is.
    pub fn admit(
        self,
        namespace: &NamespaceId,
        limit: u64,
        used: u64,
        wanted: u64,
    ) -> Result<(), QuotaExceeded> {
        if used.saturating_add(wanted) <= limit {
            return Ok(());
        }
        Err(QuotaExceeded { quota: self, namespace: namespace.clone(), limit, used, wanted })
    }
}

impl fmt::Display for QuotaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a quota is a number of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaUnit {
    /// Bytes.
    Bytes,
    /// Executions.
    Executions,
    /// Pipelines.
    Pipelines,
    /// Runs.
    Runs,
    /// Secrets.
    Secrets,
    /// Sessions of commands.
    Sessions,
    /// Versions of pipelines.
    Versions,
}

impl QuotaUnit {
    /// The word, in the plural.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Executions => "executions",
            Self::Pipelines => "pipelines",
            Self::Runs => "runs",
            Self::Secrets => "secrets",
            Self::Sessions => "sessions",
            Self::Versions => "versions",
        }
    }
}

/// Largest limit: what a column of the database holds.
pub const MAX_LIMIT: u64 = i64::MAX as u64;

/// A limit of every kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "QuotaOverrides")]
pub struct Quotas([u64; QuotaKind::ALL.len()]);

/// The limits that a namespace has of its own.
pub type QuotaOverrides = BTreeMap<QuotaKind, u64>;

impl Default for Quotas {
    fn default() -> Self {
        Self(std::array::from_fn(|at| QuotaKind::ALL[at].default_limit()))
    }
}

impl From<QuotaOverrides> for Quotas {
    fn from(overrides: QuotaOverrides) -> Self {
        Self::default().with(&overrides)
    }
}

impl Quotas {
    /// The limit of this kind.
    #[must_use]
    pub fn get(&self, kind: QuotaKind) -> u64 {
        self.0[kind as usize]
    }

    /// These limits, where a namespace has none of its own.
    #[must_use]
    pub fn with(&self, overrides: &QuotaOverrides) -> Self {
        let mut quotas = self.clone();
        for (kind, limit) in overrides {
            quotas.0[*kind as usize] = *limit;
        }
        quotas
    }
}

/// A namespace has as much as it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct QuotaExceeded {
    /// Of which kind.
    pub quota: QuotaKind,
    /// Whose.
    pub namespace: NamespaceId,
    /// How much it may use.
    pub limit: u64,
    /// How much it uses.
    pub used: u64,
    /// How much more was asked for.
    pub wanted: u64,
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quota, namespace, limit, used, wanted } = self;
        let (unit, remedy) = (quota.unit().as_str(), quota.remedy());
        write!(
            f,
            "namespace `{namespace}` has used {used} of the {limit} {unit} of its quota `{quota}`, \
             and {wanted} more would exceed it; {remedy}, or let a management token raise it: \
             `gofer namespace update {namespace} --quota {quota}=LIMIT`"
        )
    }
}

/// A quota of a namespace, and how far it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaUse {
    /// Which.
    pub quota: QuotaKind,
    /// How much the namespace may use.
    pub limit: u64,
    /// Whether that is the namespace's own limit, and not the default.
    pub overridden: bool,
    /// How much it uses.
    pub used: u64,
}

/// A server's part of a limit that several servers share: together they have no more, but for one
/// each.
#[must_use]
pub fn share_of_server(limit: u64, servers: usize) -> usize {
    let share = limit / (servers.max(1) as u64);
    usize::try_from(share).unwrap_or(usize::MAX).max(usize::from(limit > 0))
}

/// The minute of the clock that rates are counted in.
#[must_use]
pub fn minute(at: Timestamp) -> i64 {
    at.0.div_euclid(60_000_000)
}

/// Variables of a run up to this are counted, but not held against it: `runs_per_minute` bounds
/// them.
pub const SMALL_RUN_BYTES: u64 = 4 * KIB;

/// What `run_bytes_per_minute` counts of a run.
#[must_use]
pub fn run_bytes(variables: &BTreeMap<String, String>) -> u64 {
    variables.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_name_everywhere() {
        for (at, kind) in QuotaKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at, "{kind}: its number is its place in the table");
            assert_eq!(QuotaKind::parse(kind.name()), Some(*kind));
            assert_eq!(
                serde_json::to_value(kind).unwrap(),
                kind.name(),
                "serialized as it is named"
            );
            assert!(kind.default_limit() > 0 && kind.default_limit() <= MAX_LIMIT);
            assert!(!kind.doc().ends_with('.') && !kind.remedy().ends_with('.'), "{kind}");
        }
        assert_eq!(QuotaKind::parse("invented"), None);
    }

    #[test]
    fn a_namespaces_own_limit_wins_over_the_default() {
        let defaults: Quotas = serde_json::from_str(r#"{"executions": 5, "secrets": 7}"#).unwrap();
        let own = defaults.with(&[(QuotaKind::Secrets, 0)].into());
        assert_eq!((own.get(QuotaKind::Executions), own.get(QuotaKind::Secrets)), (5, 0));
        assert_eq!(own.get(QuotaKind::LogBytes), QuotaKind::LogBytes.default_limit());
        assert!(
            serde_json::from_str::<Quotas>(r#"{"execution": 5}"#).is_err(),
            "there is no such quota"
        );
    }

    #[test]
    fn a_refusal_names_quota_namespace_limit_use_and_the_next_step() {
        let red = NamespaceId::new("red").unwrap();
        assert_eq!(QuotaKind::Secrets.admit(&red, 3, 2, 1), Ok(()));
        let refused = QuotaKind::Secrets.admit(&red, 3, 3, 1).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "namespace `red` has used 3 of the 3 secrets of its quota `secrets`, and 1 more would \
             exceed it; delete secrets, or let a management token raise it: `gofer namespace \
             update red --quota secrets=LIMIT`"
        );
        assert!(
            QuotaKind::Secrets.admit(&red, u64::MAX, u64::MAX, 1).is_ok(),
            "the sum does not overflow"
        );
    }

    #[test]
    fn servers_share_a_limit_and_each_has_something() {
        assert_eq!([1, 2, 3, 4, 5].map(|servers| share_of_server(4, servers)), [4, 2, 1, 1, 1]);
        assert_eq!(share_of_server(0, 3), 0, "nothing is nothing for each");
        assert_eq!(share_of_server(4, 0), 4, "a server that has not counted yet counts itself");
    }
}
