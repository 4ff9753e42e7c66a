//! What the database keeps beside runs: namespaces, pipelines, tokens, objects and secrets (never
//! their values).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{NamespaceId, ObjectKey, PipelineId, RunNumber, SecretPath, Version};
use crate::pipeline::PipelineSpec;
use crate::time::Timestamp;

/// A divider; owns pipelines; permissions are granted per namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub id: NamespaceId,
    /// For people; may be empty.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its description last changed.
    pub updated_at: Timestamp,
}

/// A registered pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Its name.
    pub id: PipelineId,
    /// Disabled pipelines start no new runs.
    pub enabled: bool,
    /// The newest version.
    pub latest_version: Version,
    /// When it was first registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// One immutable registration of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineVersion {
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Its pipeline.
    pub pipeline: PipelineId,
    /// Its number.
    pub version: Version,
    /// What was registered.
    pub spec: Arc<PipelineSpec>,
    /// SHA-256 of the spec's canonical form, in hex; equal specs make no new version.
    pub digest: String,
    /// Who registered it.
    pub registered_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// A token as the database knows it: never the token itself, only its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Random, for people to name it by.
    pub id: String,
    /// What it may do.
    pub kind: TokenKind,
    /// Where a client token may do it.
    pub namespaces: Vec<NamespaceId>,
    /// For people; may be empty.
    pub description: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// After this it is refused.
    pub expires_at: Option<Timestamp>,
    /// It is refused until it is enabled again.
    pub disabled: bool,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Everything.
    Management,
    /// What its namespaces allow.
    Client,
}

impl TokenKind {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Management => "management",
            Self::Client => "client",
        }
    }

    /// The kind of a stable name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "management" => Some(Self::Management),
            "client" => Some(Self::Client),
            _ => None,
        }
    }
}

/// Whose object it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectScope {
    /// The pipeline's namespace.
    pub namespace: NamespaceId,
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The run, for run objects; `None` is the pipeline's own.
    pub run: Option<RunNumber>,
}

/// An object as the database knows it. The bytes lie in the object store under `location`, a key
/// used once: replacing an object writes a new location, commits it, then deletes the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Whose it is.
    pub scope: ObjectScope,
    /// The user's key.
    pub key: ObjectKey,
    /// Where the bytes lie.
    pub location: ObjectKey,
    /// Their number.
    pub size_bytes: u64,
    /// Their SHA-256 in hex; empty when it is not known, of an object that was uploaded by URL.
    pub sha256: String,
    /// When it was put.
    pub created_at: Timestamp,
}

/// Whose secret it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretScope {
    /// One pipeline's.
    Pipeline(NamespaceId, PipelineId),
    /// The whole installation's; its record lists the namespaces that may read it.
    Global,
}

/// A secret as the database knows it: never its value. That lies in the secret store under
/// `location`, a path used once: replacing a secret writes a new location, commits it, then deletes
/// the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// Whose it is.
    pub scope: SecretScope,
    /// The user's key.
    pub key: String,
    /// Where the value lies.
    pub location: SecretPath,
    /// Namespaces that may read a global secret.
    pub allowed_namespaces: Vec<NamespaceId>,
    /// Who put it last.
    pub updated_by: String,
    /// When it was first put.
    pub created_at: Timestamp,
    /// When it was last put.
    pub updated_at: Timestamp,
}
