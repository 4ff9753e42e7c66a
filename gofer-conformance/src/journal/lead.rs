//! Who does what one server does for all.

use gofer_core::journal::Journal;

use super::JournalFixture;
use super::fixture::{OWNER, TTL, at};

const OTHER: &str = "server-2";

/// The lead is free at first, and then its holder's until it runs out.
pub async fn the_lead_is_one_owners_until_it_runs_out(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    assert!(lead(&*journal, OWNER, 0).await);
    assert!(!lead(&*journal, OTHER, 1).await, "it is held until 30");
    assert!(!lead(&*journal, OTHER, 29).await);
    assert!(lead(&*journal, OTHER, 30).await, "it ran out");
    assert!(!lead(&*journal, OWNER, 31).await, "the other has it now");
}

/// Taking what one has prolongs it, and a call that was overtaken on its way shortens nothing.
pub async fn the_lead_is_prolonged_and_never_shortened(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    assert!(lead(&*journal, OWNER, 0).await);
    assert!(lead(&*journal, OWNER, 20).await);
    assert!(lead(&*journal, OWNER, 10).await, "it still has it");
    assert!(!lead(&*journal, OTHER, 49).await, "it is held until 50");
    assert!(lead(&*journal, OTHER, 50).await);
}

/// Who releases what it holds releases the lead with it.
pub async fn a_released_lead_is_free_at_once(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    assert!(lead(&*journal, OWNER, 0).await);
    journal.release(OTHER).await.expect("release");
    assert!(!lead(&*journal, OTHER, 1).await, "it was not the other's to release");
    journal.release(OWNER).await.expect("release");
    assert!(lead(&*journal, OTHER, 1).await);
}

/// Of many who ask at once, one gets it.
pub async fn of_concurrent_servers_one_leads(fixture: &dyn JournalFixture) {
    let asking = (0..8).map(|server| {
        let journal = fixture.backend();
        tokio::spawn(async move { lead(&*journal, &format!("server-{server}"), 0).await })
    });
    let mut leaders = 0;
    for joined in futures::future::join_all(asking).await {
        leaders += usize::from(joined.expect("no panic"));
    }
    assert_eq!(leaders, 1);
}

async fn lead(journal: &dyn Journal, owner: &str, seconds: i64) -> bool {
    journal.acquire_leadership(owner, at(seconds), TTL).await.expect("acquire_leadership")
}
