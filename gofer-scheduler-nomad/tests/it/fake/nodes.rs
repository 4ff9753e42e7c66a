//! Nodes that come and go.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::state::{Name, State, is_terminal, now, text};
use super::{Inner, placement, runner};

/// Something about a node changed: what waits for a place may have one.
pub(super) fn changed(inner: &Arc<Inner>, node: &str) {
    inner.change(|state| {
        let index = state.next_index();
        let event = event(state, index, node);
        state.publish(index, vec![event]);
    });
    placement::unblock(inner);
}

/// A node's heartbeats stop, or come again.
pub(super) fn set_connected(inner: &Arc<Inner>, node: &str, connected: bool) {
    inner.change(|state| {
        let node = state.nodes.get_mut(node).expect("a known node");
        (node.connected, node.since) = (connected, now());
    });
    let ended = if connected { reconnect(inner, node) } else { Vec::new() };
    changed(inner, node);
    for name in inner.read(|state| jobs_on(state, node)) {
        placement::evaluate(inner, &name, if connected { "reconnect" } else { "node-update" });
    }
    for alloc in ended {
        runner::after_end(inner, &alloc);
    }
}

/// Takes what the client could not tell, and says of what became unknown that it is back.
fn reconnect(inner: &Inner, node: &str) -> Vec<String> {
    inner.change(|state| {
        let here: Vec<String> = on(state, node);
        let mut ended = Vec::new();
        for id in here {
            let alloc = state.allocs.get_mut(&id).expect("known");
            let unsent = alloc.unsent.take();
            let was_unknown = alloc.value["ClientStatus"] == "unknown";
            let update = unsent.unwrap_or_else(|| {
                let mut same = alloc.value.clone();
                if was_unknown {
                    same["ClientStatus"] = json!("running");
                    same["ClientDescription"] = json!("");
                }
                same
            });

            let over = is_terminal(&update);
            if was_unknown
                || over && !is_terminal(&alloc.value)
                || alloc.value["ClientStatus"] == "lost"
            {
                runner::apply(state, &id, &update);
                let alloc = &mut state.allocs.get_mut(&id).expect("known").value;
                if was_unknown && alloc["DesiredStatus"] == "run" {
                    let status = text(&update["ClientStatus"]);
                    placement::remember(alloc, &status);
                }
            }

            if over {
                ended.push(id);
            }
        }

        ended
    })
}

/// The time to wait for a disconnected node is over.
pub(super) fn expire(inner: &Arc<Inner>, node: &str) {
    let jobs = inner.change(|state| {
        for id in on(state, node) {
            state.allocs.get_mut(&id).expect("known").value["DisconnectExpired"] = json!(true);
        }
        jobs_on(state, node)
    });
    for name in jobs {
        placement::evaluate(inner, &name, "max-disconnect-timeout");
    }
}

/// Stops what runs on a node, and places nothing there any more. Batch allocations are not replaced
/// (since 1.11).
pub(super) fn drain(inner: &Arc<Inner>, node: &str) {
    inner.change(|state| {
        state.nodes.get_mut(node).expect("a known node").eligible = false;
        let index = state.next_index();
        let mut events = vec![event(state, index, node)];

        for id in on(state, node) {
            if !is_terminal(&state.allocs[&id].value) {
                events.push(state.put_alloc(
                    index,
                    "AllocationUpdateDesiredStatus",
                    &id,
                    |alloc| {
                        alloc["DesiredTransition"] = json!({"Migrate": true});
                        alloc["DesiredStatus"] = json!("stop");
                        alloc["DesiredDescription"] = json!("alloc is being migrated");
                    },
                ));
            }
        }

        state.publish(index, events);
    });
    for name in inner.read(|state| jobs_on(state, node)) {
        placement::evaluate(inner, &name, "node-drain");
    }
}

/// Takes an allocation's place for something more important.
pub(super) fn preempt(inner: &Arc<Inner>, id: &str) {
    inner.change(|state| {
        let index = state.next_index();
        let event = state.put_alloc(index, "PlanResult", id, |alloc| {
            alloc["DesiredStatus"] = json!("evict");
            alloc["DesiredDescription"] =
                json!("Preempted by alloc ID 00000000-0000-0000-0000-000000000001");
            alloc["PreemptedByAllocation"] = json!("00000000-0000-0000-0000-000000000001");
        });
        state.publish(index, vec![event]);
    });
}

/// A node as lists show it.
pub(super) fn stub(state: &State, id: &str) -> Value {
    let node = &state.nodes[id];
    let drivers: serde_json::Map<String, Value> = node
        .drivers
        .iter()
        .map(|driver| {
            (
                driver.clone(),
                json!({"Detected": true, "Healthy": true, "HealthDescription": "Healthy"}),
            )
        })
        .collect();
    let status = if node.connected { "ready" } else { "down" };

    json!({
        "ID": id, "Name": node.name, "Datacenter": "dc1", "NodePool": "default", "NodeClass": "", "Version": "2.0.5",
        "Status": status, "StatusUpdatedAt": node.since / 1_000_000_000, "StatusDescription": "", "Drain": false, "Drivers": drivers, "Address": "127.0.0.1",
        "SchedulingEligibility": if node.eligible { "eligible" } else { "ineligible" },
    })
}

fn event(state: &State, index: u64, node: &str) -> Value {
    json!({"Topic": "Node", "Type": "NodeRegistration", "Key": node, "Namespace": "", "FilterKeys": null,
           "Index": index, "Payload": {"Node": stub(state, node)}})
}

fn on(state: &State, node: &str) -> Vec<String> {
    let here = state.allocs.values().filter(|alloc| alloc.value["NodeID"] == node);
    here.map(|alloc| text(&alloc.value["ID"])).collect()
}

fn jobs_on(state: &State, node: &str) -> BTreeSet<Name> {
    let name = |id: String| {
        let alloc = &state.allocs[&id].value;
        (text(&alloc["Namespace"]), text(&alloc["JobID"]))
    };
    let live = |id: &String| {
        let alloc = &state.allocs[id].value;
        !is_terminal(alloc) || alloc["ClientStatus"] == "lost"
    };
    on(state, node).into_iter().filter(live).map(name).collect()
}
