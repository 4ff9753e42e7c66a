//! Whether a caller is still whom the call was admitted as, for calls that go on for long.
//!
//! ```text
//!   a stream begins ──open──▶ Standings ◀──check── a commit of any server (notice), or half a second
//!                                │
//!   the stream ends  ◀──lost── Standing    disabled, deleted, expired; its run complete; a namespace of it gone
//! ```
//!
//! A notice only makes it fast. The database is read after one, and without one at every interval.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::entity::Token;
use gofer_core::id::{NamespaceId, RunKey};
use gofer_db::{Db, DbError};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use crate::error::{ApiError, TokenProblem};

/// How long a loss may stay unseen when no notice comes.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Between two checks: under load there is a commit every moment.
const CHECK_SPACING: Duration = Duration::from_millis(100);
/// How long a standing is believed that cannot be looked at, because the database is away.
const UNCHECKED_MAX: Duration = Duration::from_secs(30);

/// What a standing stands on.
#[derive(Debug)]
enum Credential {
    Token { id: String, namespaces: Vec<NamespaceId> },
    Run(RunKey),
}

impl Credential {
    fn of(identity: &Identity) -> Option<Self> {
        match identity {
            Identity::Management(token) => {
                Some(Self::Token { id: token.id.clone(), namespaces: Vec::new() })
            }
            Identity::Client { namespaces, token } => {
                Some(Self::Token { id: token.id.clone(), namespaces: namespaces.clone() })
            }
            Identity::Run(key) => Some(Self::Run(key.clone())),
            // These last as long as the server, or for one short call.
            Identity::Anonymous | Identity::Anybody | Identity::Dev | Identity::Execution(_) => {
                None
            }
        }
    }
}

/// Why a standing was lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Token(TokenProblem),
    /// Nobody could look for too long.
    Unknown,
}

/// The standing of one stream's caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    credential: Credential,
    loss: OnceLock<Loss>,
    lost: CancellationToken,
}

impl Open {
    fn lose(&self, loss: Loss) {
        let _ = self.loss.set(loss);
        self.lost.cancel();
    }
}

impl Standing {
    /// Waits until it is lost; for ever, when it cannot be.
    pub(crate) async fn lost(&self) {
        match &self.0 {
            Some(open) => open.lost.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// What to tell the caller, if it is lost.
    pub(crate) fn loss(&self) -> Option<ApiError> {
        Some(match *self.0.as_ref()?.loss.get()? {
            Loss::Token(problem) => ApiError::Unauthenticated(problem),
            Loss::Unknown => {
                let seconds = UNCHECKED_MAX.as_secs();
                let message = format!(
                    "whether the token of this stream is still good could not be read for \
                     {seconds} s"
                );
                ApiError::Db(DbError::Unavailable { message, source: None })
            }
        })
    }

    /// The work's outcome, unless the standing is lost before.
    ///
    /// # Errors
    /// What to tell the caller.
    pub(crate) async fn hold<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        tokio::select! {
            biased;
            () = self.lost() => Err(self.loss().unwrap_or(ApiError::Broken)),
            done = work => Ok(done),
        }
    }
}

/// The standings of all streams that are open.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    open: Mutex<Vec<Weak<Open>>>,
    opened: Notify,
}

impl Standings {
    /// The standing of a caller who was just admitted.
    pub(crate) fn open(&self, identity: &Identity) -> Standing {
        let Some(credential) = Credential::of(identity) else { return Standing::default() };
        let open =
            Arc::new(Open { credential, loss: OnceLock::new(), lost: CancellationToken::new() });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&open));
        self.opened.notify_one();
        Standing(Some(open))
    }

    fn all(&self) -> Vec<Arc<Open>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|open| open.strong_count() > 0);
        open.iter().filter_map(Weak::upgrade).filter(|open| !open.lost.is_cancelled()).collect()
    }

    /// Looks after every standing until the server ends.
    pub(crate) async fn watch(&self, db: &Db) {
        let mut committed = db.event_watch();
        let (mut checked, mut known) = (Instant::now(), Instant::now());
        loop {
            let open = self.all();
            if open.is_empty() {
                self.opened.notified().await;
                known = Instant::now();
                continue;
            }

            match check(db, &open).await {
                Ok(()) => known = Instant::now(),
                Err(error) if known.elapsed() > UNCHECKED_MAX => {
                    tracing::warn!(%error, streams = open.len(), "whether tokens are still good is \
                                                                  not known; their streams end");
                    open.iter().for_each(|open| open.lose(Loss::Unknown));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot look whether the tokens of open streams are \
                                            still good")
                }
            }

            drop(open);

            tokio::time::sleep_until(checked + CHECK_SPACING).await;
            checked = Instant::now();
            tokio::select! {
                _ = committed.changed() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
        }
    }
}

/// Reads each token and run once, and ends what has lost its standing.
async fn check(db: &Db, open: &[Arc<Open>]) -> Result<(), DbError> {
    let (mut ids, mut keys) = (HashSet::new(), HashSet::new());
    for open in open {
        match &open.credential {
            Credential::Token { id, .. } => drop(ids.insert(id.clone())),
            Credential::Run(key) => drop(keys.insert(key.clone())),
        }
    }

    let tokens =
        if ids.is_empty() { Vec::new() } else { db.token_some(ids.into_iter().collect()).await? };
    let tokens: HashMap<String, Token> =
        tokens.into_iter().map(|token| (token.id.clone(), token)).collect();
    let runs = if keys.is_empty() {
        Vec::new()
    } else {
        db.run_unfinished(keys.into_iter().collect()).await?
    };

    let runs: HashSet<RunKey> = runs.into_iter().collect();

    for open in open {
        let problem = match &open.credential {
            Credential::Token { id, namespaces } => {
                tokens.get(id).map_or(Some(TokenProblem::Unknown), |token| {
                    let all_there =
                        || namespaces.iter().all(|namespace| token.namespaces.contains(namespace));
                    problem_of(token)
                        .or_else(|| (!all_there()).then_some(TokenProblem::NamespaceGone))
                })
            }
            Credential::Run(key) => (!runs.contains(key)).then_some(TokenProblem::Unknown),
        };
        if let Some(problem) = problem {
            open.lose(Loss::Token(problem));
        }
    }

    Ok(())
}

/// Why a token that is known is not good now.
pub(crate) fn problem_of(token: &Token) -> Option<TokenProblem> {
    if token.disabled {
        return Some(TokenProblem::Disabled);
    }
    token.expires_at.is_some_and(|end| end <= Timestamp::now()).then_some(TokenProblem::Expired)
}

#[cfg(test)]
mod tests {
    use gofer_core::entity::TokenKind;
    use gofer_db::{DatabaseUrl, DbConfig};
    use tokio_postgres::NoTls;

    use super::*;
    use crate::auth::token::new_token;

    /// Far more than half a second, and far less than for ever.
    const PROMPTLY: Duration = Duration::from_secs(10);

    async fn insert(db: &Db, expires_after: Option<Duration>) -> Identity {
        let (mut token, _) = new_token(TokenKind::Client, "", "test");
        token.namespaces = vec![NamespaceId::new("default").unwrap()];
        token.expires_at = expires_after.map(|after| token.created_at.after(after));
        db.token_insert(&token, &rand::random()).await.unwrap();
        Identity::Client { namespaces: token.namespaces.clone(), token }
    }

    async fn loss(standing: &Standing) -> TokenProblem {
        tokio::time::timeout(PROMPTLY, standing.lost()).await.expect("it is lost");
        match standing.loss() {
            Some(ApiError::Unauthenticated(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    /// Watches on a runtime's task of its own; ends with the test.
    fn watched(db: &Db) -> Arc<Standings> {
        let standings = Arc::new(Standings::default());
        let (watching, db) = (standings.clone(), db.clone());
        tokio::spawn(async move { watching.watch(&db).await });
        standings
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_that_expires_takes_its_streams_along() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::connect(DbConfig::sqlite(dir.path().join("gofer.db"))).await.unwrap();
        let standings = watched(&db);
        let short = standings.open(&insert(&db, Some(Duration::from_secs(2))).await);
        let long = standings.open(&insert(&db, Some(Duration::from_secs(3600))).await);
        let never = standings.open(&Identity::Dev);

        assert!(short.loss().is_none(), "not yet");
        assert_eq!(loss(&short).await, TokenProblem::Expired);
        assert!(short.hold(std::future::pending::<()>()).await.is_err());
        assert!(long.loss().is_none() && never.loss().is_none());
        assert!(long.hold(std::future::ready(7)).await.is_ok_and(|done| done == 7));
        drop((short, long));
        gofer_conformance::eventually(
            "nobody looks after what is closed",
            async || match standings.all().len() {
                0 => Ok(()),
                open => Err(open.to_string()),
            },
        )
        .await;
        db.close().await;
    }

    /// By another server's notice, and where none comes because somebody went past Gofer.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_loss_is_seen_by_every_server_with_and_without_a_notice() {
        let test = "standing::a_loss_is_seen_by_every_server_with_and_without_a_notice";
        let Ok(base) = std::env::var("GOFER_TEST_POSTGRES_URL") else {
            gofer_conformance::skip("postgres", test, "GOFER_TEST_POSTGRES_URL is not set");
            return;
        };

        let execute = async |url: &str, statement: &str| {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            client.batch_execute(statement).await.unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
        };

        let name = format!("gofer_standing_{}", std::process::id());
        execute(&base, &format!("CREATE DATABASE {name}")).await;
        let url = format!("{}/{name}", base.rsplit_once('/').unwrap().0);
        let config = DbConfig {
            url: Some(DatabaseUrl::new(url.clone())),
            shared: true,
            ..DbConfig::default()
        };

        let servers =
            [Db::connect(config.clone()).await.unwrap(), Db::connect(config).await.unwrap()];

        let (one, two) = (insert(&servers[0], None).await, insert(&servers[1], None).await);
        let standings = servers.each_ref().map(watched);
        let of =
            |identity: &Identity| standings.each_ref().map(|standings| standings.open(identity));
        let (told, untold) = (of(&one), of(&two));
        let Identity::Client { token, .. } = &one else { panic!("a client") };

        servers[0].token_set_disabled(&token.id, true, "test", Timestamp::now()).await.unwrap();
        for standing in &told {
            assert_eq!(loss(standing).await, TokenProblem::Disabled);
        }

        assert!(untold.iter().all(|standing| standing.loss().is_none()));
        let Identity::Client { token, .. } = &two else { panic!("a client") };
        execute(&url, &format!("DELETE FROM tokens WHERE id = '{}'", token.id)).await;

        for standing in &untold {
            assert_eq!(loss(standing).await, TokenProblem::Unknown);
        }

        for server in servers {
            server.close().await;
        }

        execute(&base, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}
