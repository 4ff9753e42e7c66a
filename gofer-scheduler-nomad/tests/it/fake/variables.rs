//! Nomad variables.

use serde_json::{Value, json};

use super::Inner;
use super::http::{Answer, Failure};
use super::state::{Name, now};

/// Of all items of one variable, names and values.
const MAX_BYTES: usize = 65_536;

/// `PUT /v1/var/:path`.
pub(super) fn put(inner: &Inner, name: &Name, cas: Option<u64>, body: &Value) -> Answer {
    let Some(items) = body["Items"].as_object().filter(|items| !items.is_empty()) else {
        return Err(Failure::new(400, "variable missing required Items object"));
    };

    let bytes: usize =
        items.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > MAX_BYTES {
        return Err(Failure::new(
            400,
            "RPC Error:: 400,variables are limited to 64KiB in total size",
        ));
    }

    inner.change(|state| {
        let existing = state.variables.get(name).cloned();
        check(cas, existing.as_ref())?;
        let index = state.next_index();
        let created = existing.map_or_else(|| json!(index), |old| old["CreateIndex"].clone());
        let variable = json!({"Namespace": name.0, "Path": name.1, "Items": items, "CreateIndex": created,
                              "ModifyIndex": index, "CreateTime": now(), "ModifyTime": now()});
        state.variables.insert(name.clone(), variable.clone());
        Ok(variable)
    })
}

/// `GET /v1/var/:path`.
pub(super) fn get(inner: &Inner, name: &Name) -> Answer {
    inner
        .read(|state| state.variables.get(name).cloned())
        .ok_or_else(|| Failure::new(404, "variable not found"))
}

/// `DELETE /v1/var/:path`.
pub(super) fn delete(inner: &Inner, name: &Name, cas: Option<u64>) -> Result<(), Failure> {
    inner.change(|state| {
        check(cas, state.variables.get(name))?;
        state.next_index();
        state.variables.remove(name);
        Ok(())
    })
}

/// `GET /v1/vars`: metadata alone.
pub(super) fn list(inner: &Inner, namespace: &str, prefix: &str) -> Value {
    inner.read(|state| {
        let listed = state.variables.iter().filter(|((space, path), _)| {
            (namespace == "*" || namespace == space.as_str()) && path.starts_with(prefix)
        });
        let stubs = listed.map(|(_, variable)| {
            let mut stub = variable.clone();
            stub.as_object_mut().expect("a variable").remove("Items");
            stub
        });
        Value::Array(stubs.collect())
    })
}

fn check(cas: Option<u64>, existing: Option<&Value>) -> Result<(), Failure> {
    let index = existing.map_or(0, |old| old["ModifyIndex"].as_u64().unwrap_or(0));
    if cas.is_none_or(|cas| cas == index) {
        return Ok(());
    }
    let conflict = existing.cloned().unwrap_or_else(|| json!({"ModifyIndex": 0}));
    Err(Failure { code: 409, text: conflict.to_string(), json: true })
}
