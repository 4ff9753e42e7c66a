//! Workload identities: tokens that say whose task it is, signed with a key of this fake's own.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::state::{text, uuid};

/// A key that signs.
pub(crate) struct Signer {
    id: String,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// A new key.
    pub(crate) fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("the same key");
        Self { id: uuid(), pair }
    }

    /// Another key that pretends to be this one.
    pub(crate) fn impostor(&self) -> Self {
        Self { id: self.id.clone(), ..Self::new() }
    }

    /// `GET /.well-known/jwks.json`.
    pub(super) fn jwks(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"keys": [{"use": "sig", "kty": "OKP", "kid": self.id, "crv": "Ed25519", "alg": "EdDSA", "x": x}]})
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.id, "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }
}

/// What a token says of a task.
pub(crate) fn claims(job: &Value, alloc: &Value, task: &Value, identity: &Value) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (namespace, job, task) = (text(&job["Namespace"]), text(&job["ID"]), text(&task["Name"]));
    let name = text(&identity["Name"]);
    let mut claims = json!({
        "nomad_namespace": namespace, "nomad_job_id": job, "nomad_allocation_id": alloc["ID"], "nomad_task": task,
        "aud": identity["Audience"], "sub": format!("global:{namespace}:{job}:g:{task}:{name}"), "iat": now, "nbf": now,
        "jti": uuid(),
    });
    if let Some(life) = identity["TTL"].as_u64().filter(|life| *life > 0) {
        claims["exp"] = json!(now + life / 1_000_000_000);
    }
    claims
}
