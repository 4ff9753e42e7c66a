//! What Gofer calls things in a job: the job itself, its one group and task, and its metadata.

use std::time::Duration;

use gofer_core::ExecutionId;
use sha2::{Digest, Sha256};

/// The one group of every job.
pub(crate) const GROUP: &str = "g";
/// The task of it that is the execution.
pub(crate) const MAIN: &str = "main";
/// Job metadata: which execution it is, and all that is needed to know it again.
pub(crate) const META_EXECUTION: &str = "gofer_execution";
/// Job metadata: which Gofer it belongs to.
pub(crate) const META_INSTANCE: &str = "gofer_instance";
/// Job metadata: `task` or `service`.
pub(crate) const META_KIND: &str = "gofer_kind";
/// Job metadata: why the execution was refused; such a job runs nothing.
pub(crate) const META_REFUSED: &str = "gofer_refused";
/// Job metadata, set when the job is stopped for it: the execution was given up as lost.
pub(crate) const META_LOST: &str = "gofer_lost";
/// Job metadata: how many variables there are to delete at the end.
pub(crate) const META_SECRETS: &str = "gofer_secrets";
/// Job metadata: a supervisor runs the task, and may report its end.
pub(crate) const META_SUPERVISED: &str = "gofer_supervised";
/// Job metadata: a shell or a supervisor sees to it that the task's program is started once.
pub(crate) const META_GUARDED: &str = "gofer_guarded";
/// Job metadata: the task runs in a container, whose exit code is all that is told of a death by
/// signal.
pub(crate) const META_CONTAINER: &str = "gofer_container";
/// Metadata that holds the characters which Nomad would take for the beginning of an interpolation.
pub(crate) const META_DOLLAR: &str = "gofer_dollar";
pub(crate) const META_PERCENT: &str = "gofer_percent";

/// The identity's name in Nomad.
pub(crate) const IDENTITY: &str = "gofer";
/// Where the task finds its token.
pub(crate) const IDENTITY_VARIABLE: &str = "NOMAD_TOKEN_gofer";
/// How long a token is worth something. Nomad renews the one in `secrets/nomad_gofer.jwt`; no
/// process's environment can be renewed, so it is longer than nearly every task runs.
pub(crate) const IDENTITY_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Longest id of a job. Nomad sets no limit, but names of containers, cgroups and files are built
/// from it.
pub(crate) const MAX_JOB_ID_BYTES: usize = 100;
/// Hex digits of the hash that stands for what was cut or could be read in two ways.
const HASH_DIGITS: usize = 16;

/// The id of an execution's job: `<prefix>-<namespace>-<pipeline>-r<run>-<task>-a<attempt>`.
///
/// The same execution always has the same id, and no two have one id. Where a part holds a `-`,
/// where one part ends and the next begins could be read in two ways; there, and where the id would
/// be too long, it ends with a hash of the name.
pub(crate) fn job_id(prefix: &str, id: &ExecutionId) -> String {
    let parts = [id.run.namespace.as_str(), id.run.pipeline.as_str(), id.task.as_str()];
    let [namespace, pipeline, task] = parts;
    let readable =
        format!("{prefix}-{namespace}-{pipeline}-r{}-{task}-a{}", id.run.run, id.attempt);
    let plain = parts.iter().all(|part| !part.contains('-'));
    if plain && readable.len() <= MAX_JOB_ID_BYTES {
        return readable;
    }
    let hash = hash(id);
    let room = MAX_JOB_ID_BYTES - hash.len() - 1;
    // Ids are ASCII, so any cut is between characters.
    format!("{}-{hash}", readable[..readable.len().min(room)].trim_end_matches('-'))
}

fn hash(id: &ExecutionId) -> String {
    let digest = Sha256::digest(id.to_string().as_bytes());
    let mut text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(HASH_DIGITS);
    // An attempt ends with a digit after `a`; the hash begins with `x`, so that no hash can be
    // taken for one.
    format!("x{text}")
}

/// For whom the tokens of this Gofer's tasks are made: no other Gofer of the cluster takes them.
pub(crate) fn audience(job_prefix: &str) -> String {
    format!("gofer:{job_prefix}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(text: &str) -> ExecutionId {
        text.parse().unwrap()
    }

    #[test]
    fn ids_are_readable_where_they_can_be() {
        assert_eq!(job_id("gofer", &id("default/ci/41/build/2")), "gofer-default-ci-r41-build-a2");
        let dashed = job_id("gofer", &id("default/ci/41/build-linux/2"));
        assert!(dashed.starts_with("gofer-default-ci-r41-build-linux-a2-x"), "{dashed}");
        assert_eq!(
            dashed,
            job_id("gofer", &id("default/ci/41/build-linux/2")),
            "not deterministic"
        );
    }

    #[test]
    fn ids_are_short_safe_and_differ() {
        let longest = "n".repeat(64);
        let names = [
            "a/b-c/7/d/1".to_owned(),
            "a-b/c/7/d/1".to_owned(),
            "a/b/7/c-d/1".to_owned(),
            "a_b/c/7/d/1".to_owned(),
            "a/b-c/7/d/11".to_owned(),
            "a/b-c/7/d-1/1".to_owned(),
            "a/b-c/71/d/1".to_owned(),
            "a/b/7/d/1".to_owned(),
            "a/b/7/d-a1/1".to_owned(),
            format!("{longest}/{longest}/7/{longest}/{}", u32::MAX),
            format!("{longest}/{longest}/7/{longest}/{}", u32::MAX - 1),
            format!("{longest}/{longest}/{}/{longest}/1", u64::MAX),
        ];
        let ids: HashSet<String> = names.iter().map(|name| job_id("gofer", &id(name))).collect();

        assert_eq!(ids.len(), names.len(), "{ids:?}");
        for id in ids {
            assert!(id.len() <= MAX_JOB_ID_BYTES, "{id}");
            assert!(
                id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
                "{id}"
            );
        }
    }
}
