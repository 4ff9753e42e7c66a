//! Who calls: the identity that a call was admitted with.

use gofer_core::entity::{Token, TokenKind};
use gofer_core::id::{NamespaceId, RunKey};
use gofer_core::run::Initiator;
use secrecy::{ExposeSecret, SecretString};

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody in particular; reaches public calls only.
    Anonymous,
    /// Anybody, on a server that asks for no token; may do everything.
    Anybody,
    /// The server's own user, with the server's own token; may do everything.
    Dev,
    /// Somebody with a management token; may do everything.
    Management(Token),
    /// Somebody with a client token.
    Client {
        /// Where it may work.
        namespaces: Vec<NamespaceId>,
        token: Token,
    },
    /// A task, with its run's own token, or one that the scheduler gave the task.
    Run(RunKey),
    /// The holder of a token that a scheduler may have given an execution. The scheduler itself
    /// looks at it.
    Execution(Signed),
}

/// A token that looks as if a scheduler had signed it.
#[derive(Clone)]
pub(crate) struct Signed(pub(super) SecretString);

impl Signed {
    /// The token.
    pub(crate) fn token(&self) -> &SecretString {
        &self.0
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signed")
    }
}

impl PartialEq for Signed {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Signed {}

impl Identity {
    /// The actor of events and the author of changes.
    pub(crate) fn actor(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Anybody => "anybody".to_owned(),
            Self::Dev => "dev".to_owned(),
            Self::Management(token) | Self::Client { token, .. } => token.id.clone(),
            Self::Run(key) => format!("run:{key}"),
            Self::Execution(_) => "execution".to_owned(),
        }
    }

    /// Who starts a run.
    pub(crate) fn initiator(&self) -> Initiator {
        Initiator::Token(self.actor())
    }

    /// The namespaces this caller may see; `None` is all of them.
    pub(crate) fn visible_namespaces(&self) -> Option<Vec<NamespaceId>> {
        match self {
            Self::Anybody | Self::Dev | Self::Management(_) => None,
            Self::Client { namespaces, .. } => Some(namespaces.clone()),
            Self::Run(key) => Some(vec![key.namespace.clone()]),
            Self::Anonymous | Self::Execution(_) => Some(Vec::new()),
        }
    }

    /// Whether it may do everything.
    pub(crate) fn manages(&self) -> bool {
        matches!(self, Self::Anybody | Self::Dev | Self::Management(_))
    }

    pub(super) fn of_token(token: Token) -> Self {
        match token.kind {
            TokenKind::Management => Self::Management(token),
            TokenKind::Client => Self::Client { namespaces: token.namespaces.clone(), token },
        }
    }
}
