//! From the name of an execution to the id of its job.

use gofer_core::ExecutionId;
use sha2::{Digest, Sha256};

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
