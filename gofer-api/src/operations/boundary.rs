//! Whether namespaces are a boundary: what is said, and what is refused, where the scheduler keeps
//! no task from another.
//!
//! Without a boundary a client token of one namespace is, by way of a task, whatever the server's
//! own user is: it reads the database, the keys and every other namespace's secrets. With one
//! namespace that is a surprise, and said. With two it is a leak between people who were promised
//! none, and refused until the operator has chosen.

use std::collections::BTreeSet;

use gofer_core::Timestamp;
use gofer_core::entity::{Token, TokenKind};
use gofer_core::id::NamespaceId;
use gofer_core::object_store::ListPage;
use gofer_db::{Db, DbError};

use crate::error::ApiError;

/// What a namespace is worth with this server's scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// The scheduler keeps namespaces apart.
    Kept,
    /// It does not, and the operator has said that everybody is trusted.
    Trusted,
    /// It does not.
    Open {
        /// What an operator can do about it.
        ways_out: &'static str,
        /// Client tokens of a second namespace are refused.
        refuses: bool,
    },
}

/// Tokens that one query reads.
const TOKENS_PER_READ: usize = 500;

/// What the owner of a client token can do where nothing keeps tasks apart.
const WORTH: &str = "tasks run with the rights of the server or its agents, so whoever may \
                     register a pipeline can get at what a management token can, in every \
                     namespace";

impl Boundary {
    /// What to tell the maker of a client token.
    pub(crate) fn warnings(self, kind: TokenKind) -> Vec<String> {
        match self {
            Self::Open { ways_out, .. } if kind == TokenKind::Client => {
                vec![format!("this scheduler does not isolate namespaces: {WORTH}; {ways_out}")]
            }
            _ => Vec::new(),
        }
    }

    /// Refuses a client token that would be the first of a second namespace.
    pub(crate) async fn admit(self, db: &Db, token: &Token) -> Result<(), ApiError> {
        let Self::Open { ways_out, refuses: true } = self else { return Ok(()) };
        if token.kind != TokenKind::Client {
            return Ok(());
        }

        let mut namespaces = namespaces_of_clients(db).await?;
        namespaces.extend(token.namespaces.iter().cloned());
        if namespaces.len() < 2 {
            return Ok(());
        }

        let names: Vec<_> = namespaces.iter().take(3).map(|name| format!("`{name}`")).collect();
        let message = format!(
            "with this token clients would be of more than one namespace ({}), and this scheduler \
             does not isolate them: {WORTH}; {ways_out}",
            names.join(", ")
        );

        Err(ApiError::Precondition { reason: "NAMESPACES_NOT_ISOLATED", message })
    }

    /// Says at the start what is open, when there is somebody whom it concerns.
    pub(crate) async fn tell(self, db: &Db) -> Result<(), DbError> {
        let Self::Open { ways_out, .. } = self else { return Ok(()) };
        let namespaces = namespaces_of_clients(db).await?;
        if namespaces.len() > 1 {
            let count = namespaces.len();
            tracing::warn!(
                "this scheduler does not isolate namespaces, and there are client tokens of \
                 {count}: {WORTH}; {ways_out}"
            );
        }
        Ok(())
    }
}

/// Those that a client token which counts may work in.
async fn namespaces_of_clients(db: &Db) -> Result<BTreeSet<NamespaceId>, DbError> {
    let now = Timestamp::now();
    let mut namespaces = BTreeSet::new();
    let mut page = ListPage { after: None, limit: TOKENS_PER_READ };

    loop {
        let found = db.token_list(&[TokenKind::Client], &page).await?;
        let counts =
            |token: &&Token| !token.disabled && token.expires_at.is_none_or(|end| end > now);
        namespaces.extend(
            found.items.iter().filter(counts).flat_map(|token| token.namespaces.iter().cloned()),
        );

        match found.next {
            Some(after) => page.after = Some(after),
            None => return Ok(namespaces),
        }
    }
}
