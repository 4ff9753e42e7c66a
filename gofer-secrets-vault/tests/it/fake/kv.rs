//! The KV engine, version 2, at `secret`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::server::{Call, Reply, data, refusal};

#[derive(Debug, Clone)]
struct Version {
    /// `None` once it is destroyed.
    fields: Option<Value>,
    deleted: bool,
}

/// Versions by path below the mount; the first is version 1.
#[derive(Debug, Default)]
pub(crate) struct Kv {
    secrets: BTreeMap<String, Vec<Version>>,
    /// Whether writes must name the current version.
    pub(crate) cas_required: bool,
}

const MISMATCH: &str = "check-and-set parameter did not match the current version";

impl Kv {
    /// As by `vault kv delete`.
    pub(crate) fn soft_delete(&mut self, path: &str) {
        self.secrets.get_mut(path).unwrap().last_mut().unwrap().deleted = true;
    }

    /// As by `vault kv destroy`, of all versions.
    pub(crate) fn destroy(&mut self, path: &str) {
        for version in self.secrets.get_mut(path).unwrap() {
            version.fields = None;
        }
    }

    /// As by `vault kv put`.
    pub(crate) fn write(&mut self, path: &str, fields: Value) -> u64 {
        let versions = self.secrets.entry(path.to_owned()).or_default();
        versions.push(Version { fields: Some(fields), deleted: false });
        versions.len() as u64
    }

    /// The newest version's number and fields.
    pub(crate) fn current(&self, path: &str) -> Option<(u64, Value)> {
        let versions = self.secrets.get(path)?;
        let newest = versions.last().filter(|version| !version.deleted)?;
        Some((versions.len() as u64, newest.fields.clone()?))
    }

    pub(super) fn answer(&mut self, call: &Call<'_>) -> Reply {
        let no_route =
            || refusal(404, &["no handler for route \"other/\". route entry not found."]);
        let Some((tree, path)) =
            call.path.strip_prefix("secret/").and_then(|rest| rest.split_once('/'))
        else {
            return no_route();
        };

        // As strict as HashiCorp's; OpenBao refuses whole segments only.
        if path.contains("..") {
            return refusal(400, &["relative paths not supported"]);
        }

        match (call.method, tree) {
            ("GET", "data") => self.read(path, call.query),
            ("POST" | "PUT", "data") => self.put(path, call.body),
            ("LIST", "metadata") => self.list(path),
            ("DELETE", "metadata") => {
                self.secrets.remove(path);
                (204, Value::Null)
            }
            _ => refusal(405, &["unsupported operation"]),
        }
    }

    fn read(&self, path: &str, query: &str) -> Reply {
        assert_eq!(query, "", "only the newest version is ever wanted");
        let Some(versions) = self.secrets.get(path) else { return refusal(404, &[]) };
        let newest = versions.last().unwrap();
        let fields = newest.fields.clone().filter(|_| !newest.deleted);
        let (_, body) = data(json!({
            "data": fields,
            "metadata": {
                "created_time": "2026-11-24T12:00:00Z", "custom_metadata": null, "version": versions.len(),
                "deletion_time": if newest.deleted { "2026-11-24T13:00:00Z" } else { "" },
                "destroyed": newest.fields.is_none(),
            },
        }));
        (if body["data"]["data"].is_null() { 404 } else { 200 }, body)
    }

    fn put(&mut self, path: &str, body: &Value) -> Reply {
        let current = self.secrets.get(path).map_or(0, Vec::len) as u64;
        match body["options"].get("cas").and_then(Value::as_u64) {
            Some(cas) if cas != current => return refusal(400, &[MISMATCH]),
            None if self.cas_required => {
                return refusal(400, &["check-and-set parameter required for this call"]);
            }
            _ => {}
        }
        let version = self.write(path, body["data"].clone());
        data(json!({
            "created_time": "2026-11-24T12:00:00Z", "custom_metadata": null, "deletion_time": "", "destroyed": false,
            "version": version,
        }))
    }

    fn list(&self, path: &str) -> Reply {
        let folder = if path.is_empty() || path.ends_with('/') {
            path.to_owned()
        } else {
            format!("{path}/")
        };
        let inside = self.secrets.keys().filter_map(|key| key.strip_prefix(folder.as_str()));
        let names: BTreeSet<&str> =
            inside.map(|rest| rest.split_inclusive('/').next().unwrap_or_default()).collect();
        if names.is_empty() { refusal(404, &[]) } else { data(json!({ "keys": names })) }
    }
}
