//! Tokens and logins.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ROLE_ID;
use super::server::{Call, Reply, auth, data, refusal};

/// A token the server knows.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    /// How long it lives from its last renewal; `None` for ever. The fake forgets no token by
    /// itself, so that a busy machine fails no test: `Auth::tokens` is cleared instead.
    pub(crate) lease: Option<Duration>,
    pub(crate) made: Instant,
    /// How long it may live at all.
    pub(crate) max: Option<Duration>,
    pub(crate) renewals: usize,
    /// Leases that renewals give, before they give what is asked for.
    pub(crate) next_leases: Vec<u64>,
}

impl Token {
    pub(crate) fn forever() -> Self {
        Self { lease: None, made: Instant::now(), max: None, renewals: 0, next_leases: Vec::new() }
    }

    pub(crate) fn living(seconds: u64) -> Self {
        Self { lease: Some(Duration::from_secs(seconds)), ..Self::forever() }
    }

    pub(super) fn look_up(&self) -> Reply {
        let seconds = self.lease.map_or(0, |lease| lease.as_secs());
        data(json!({
            "ttl": seconds, "creation_ttl": seconds, "renewable": self.lease.is_some(),
            "expire_time": self.lease.map(|_| "2026-11-24T14:00:00Z"), "id": "not needed", "policies": ["default"],
        }))
    }

    pub(super) fn renew(&mut self, body: &Value) -> Reply {
        if self.lease.is_none() {
            return refusal(400, &["lease is not renewable"]);
        }
        self.renewals += 1;
        let asked: u64 =
            body["increment"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
        let mut seconds =
            if self.next_leases.is_empty() { asked } else { self.next_leases.remove(0) };
        if let Some(max) = self.max {
            seconds = seconds.min(max.saturating_sub(self.made.elapsed()).as_secs());
        }
        self.lease = Some(Duration::from_secs(seconds));
        auth(json!({ "client_token": "not needed", "lease_duration": seconds, "renewable": true }))
    }
}

/// Who may come in.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) tokens: HashMap<String, Token>,
    pub(crate) secret_ids: Vec<String>,
    /// Whether a secret id is gone after one login.
    pub(crate) secret_ids_are_used_up: bool,
    pub(crate) jwts: Vec<String>,
    /// What a login gives.
    pub(crate) fresh: Token,
    pub(crate) logins: usize,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            tokens: HashMap::new(),
            secret_ids: Vec::new(),
            secret_ids_are_used_up: false,
            jwts: Vec::new(),
            fresh: Token::living(3_600),
            logins: 0,
        }
    }
}

impl Auth {
    pub(super) fn alive(&mut self, token: Option<&str>) -> Option<&mut Token> {
        self.tokens.get_mut(token?)
    }

    /// The answer, if this is a login.
    pub(super) fn log_in(&mut self, call: &Call<'_>) -> Option<Reply> {
        let mount = call.path.strip_prefix("auth/")?.strip_suffix("/login")?;
        let field = |name: &str| call.body[name].as_str().unwrap_or_default().to_owned();
        let accepted = match mount {
            "approle" => {
                let at = self.secret_ids.iter().position(|known| *known == field("secret_id"));
                if let Some(at) = at.filter(|_| self.secret_ids_are_used_up) {
                    self.secret_ids.remove(at);
                }
                at.is_some() && field("role_id") == ROLE_ID
            }
            "kubernetes" | "jwt-nomad" => {
                field("role") == "gofer" && self.jwts.contains(&field("jwt"))
            }
            "jwt" => call.body.get("role").is_none() && self.jwts.contains(&field("jwt")),
            _ => return Some(refusal(404, &["no handler for route"])),
        };

        self.logins += 1;
        if !accepted {
            return Some(refusal(400, &["invalid role or secret ID"]));
        }

        let name = format!("token-{}", self.logins);
        let token = Token { made: Instant::now(), ..self.fresh.clone() };
        let seconds = token.lease.map_or(0, |lease| lease.as_secs());
        self.tokens.insert(name.clone(), token);

        Some(auth(json!({
            "client_token": name, "accessor": "a", "policies": ["default"], "token_policies": ["default"],
            "metadata": null, "lease_duration": seconds, "renewable": true, "entity_id": "", "token_type": "service",
            "orphan": true,
        })))
    }
}
