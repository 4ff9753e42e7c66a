//! A transfer holds no more than 32 MiB, whatever the object's size.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use gofer_conformance::eventually;
use gofer_core::object_store::ObjectStore;
use gofer_store_s3::S3Config;

use crate::fake::{Fake, Fault, Kind};
use crate::support::{PLAIN, config, key, open};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_put_takes_no_more_of_the_stream_than_it_may_hold() {
    for part_mib in [5, 8, 15] {
        let fake = Fake::start().await;
        // The parts are never answered, so whatever was taken from the stream is held.
        fake.fail(Kind::Part, usize::MAX, Fault::Silent);
        let settings = S3Config {
            part_size: (part_mib * MIB) as u64,
            request_timeout: Duration::from_secs(600),
            ..config(&fake)
        };

        let store = open(settings).await;
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let body = stream::iter(0..200).map(move |_| {
            counter.fetch_add(MIB, Ordering::Relaxed);
            Ok(Bytes::from(vec![0; MIB]))
        });

        let putting = tokio::spawn(async move { store.put(&key("k"), body.boxed(), PLAIN).await });
        // As many parts as fit are under way, and the next has been gathered.
        let parts = 30 / part_mib;
        eventually("the put takes what it can hold", || async {
            let (taken, sent) = (taken.load(Ordering::Relaxed), fake.count(Kind::Part));
            let full = taken >= parts * part_mib * MIB && sent == (parts - 1).max(1);
            if full { Ok(()) } else { Err(format!("{taken} bytes taken, {sent} parts sent")) }
        })
        .await;
        assert!(
            taken.load(Ordering::Relaxed) <= 32 * MIB,
            "{taken:?} bytes with parts of {part_mib} MiB"
        );
        putting.abort();
    }
}
