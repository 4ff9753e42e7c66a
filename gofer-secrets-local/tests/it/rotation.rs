//! Replacing the key: while the store is used, and stopped at any point.

use std::fs;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use gofer_core::secret_store::SecretStore;
use gofer_db::LocalSecret;

use crate::support::{Place, corrupt, get, path, put};

/// More rows than one page of the rotation has.
const ROWS: usize = 230;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_gets_the_new_key_and_the_old_one_goes() {
    let place = Place::new().await;
    let store = place.open().await;
    for n in 0..ROWS {
        put(&store, &format!("s/{n}"), &format!("value {n}")).await;
    }

    let old = place.key_ids();
    let old_file = fs::read(place.key_file()).unwrap();

    // One more row than secrets: the store's own.
    assert_eq!(store.rotate().await.unwrap(), ROWS as u64 + 1);

    let new = place.key_ids();
    assert_eq!(new.len(), 1);
    assert_ne!(new, old);
    assert!(place.rows_without(&new[0]).await.is_empty());

    let reopened = place.open().await;
    for n in 0..ROWS {
        assert_eq!(get(&reopened, &format!("s/{n}")).await, format!("value {n}"));
    }

    let found = reopened.check().await.unwrap();
    assert!(found.ends_with(&format!("key `{}`", new[0])), "{found}");

    fs::write(place.key_file(), old_file).unwrap();
    assert!(corrupt(place.connect().await).contains(&new[0]));
}

#[tokio::test]
async fn an_empty_store_rotates() {
    let place = Place::new().await;
    assert_eq!(place.open().await.rotate().await.unwrap(), 1);
    place.open().await.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_gets_go_on_meanwhile() {
    let place = Place::new().await;
    let store = place.open().await;
    for n in 0..20 {
        put(&store, &format!("s/{n}"), "0").await;
    }

    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let user = tokio::spawn({
        let (store, stop, count) = (store.clone(), Arc::clone(&stop), Arc::clone(&count));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let n = count.fetch_add(1, Ordering::Relaxed);
                let name = format!("s/{}", n % 20);
                put(&store, &name, &n.to_string()).await;
                assert_eq!(get(&store, &name).await, n.to_string());
            }
        }
    });

    for _ in 0..5 {
        let before = count.load(Ordering::Relaxed);
        store.rotate().await.unwrap();
        while count.load(Ordering::Relaxed) < before + 2 {
            tokio::task::yield_now().await;
        }
    }

    stop.store(true, Ordering::Relaxed);
    user.await.unwrap();
    let ids = place.key_ids();
    assert_eq!(ids.len(), 1);
    assert!(place.rows_without(&ids[0]).await.is_empty());
    place.open().await.check().await.unwrap();
}

/// Gives up, as a caller would, when it was polled so many times.
struct Polled<F> {
    future: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Polled<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.future.as_mut().poll(context).map(Some)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_anywhere_it_loses_nothing() {
    let place = Place::new().await;
    let mut store = place.open().await;
    for n in 0..5 {
        put(&store, &format!("s/{n}"), &n.to_string()).await;
    }

    let mut interrupted = 0;
    for left in 1.. {
        let stopped = store.clone();
        let finished =
            Polled { future: Box::pin(async move { stopped.rotate().await }), left }.await;

        // Like a new process after a crash: only the file and the database are left.
        store = place.open().await;
        for n in 0..5 {
            assert_eq!(get(&store, &format!("s/{n}")).await, n.to_string(), "after {left} polls");
        }

        let found = store.check().await.unwrap();
        if place.key_ids().len() > 1 {
            interrupted += 1;
            assert!(found.contains("a rotation was interrupted"), "{found}");
        }

        if let Some(result) = finished {
            result.unwrap();
            assert_eq!(place.key_ids().len(), 1, "a finished rotation leaves one key");
            break;
        }
    }

    assert!(interrupted > 0, "no rotation was stopped in the middle");
}

#[tokio::test]
async fn another_process_reads_the_new_key_by_itself() {
    let place = Place::new().await;
    let (one, other) = (place.open().await, place.open().await);
    put(&one, "a", "1").await;
    one.rotate().await.unwrap();
    assert_eq!(get(&other, "a").await, "1");
    put(&other, "a", "2").await;
    assert_eq!(get(&one, "a").await, "2");
}

#[tokio::test]
async fn a_row_that_does_not_decrypt_stops_it_and_keeps_the_old_key() {
    let place = Place::new().await;
    let store = place.open().await;
    put(&store, "good", "1").await;
    put(&store, "torn", "2").await;

    let row = place.db.local_secret_get(&path("torn")).await.unwrap();
    let old = place.key_ids().remove(0);
    let torn = LocalSecret { ciphertext: row.ciphertext[..20].to_vec(), ..row };
    place.db.local_secret_put(&path("torn"), &torn, false).await.unwrap();

    assert!(corrupt(store.rotate().await).starts_with("row `torn` does not decrypt"));
    assert_eq!(place.key_ids().len(), 2);
    assert_eq!(place.key_ids()[1], old);
    assert_eq!(get(&store, "good").await, "1");

    store.delete(&path("torn")).await.unwrap();
    store.rotate().await.unwrap();
    assert_eq!(place.key_ids().len(), 1);
    assert_eq!(get(&place.open().await, "good").await, "1");
}
