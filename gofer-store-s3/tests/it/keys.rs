//! Whatever a key or a prefix may hold survives the way to the store.

use bytes::Bytes;
use gofer_core::object_store::{ListPage, ObjectStore};
use gofer_store_s3::S3Config;

use crate::fake::Fake;
use crate::support::{PLAIN, config, content, open, put};

/// The letters of keys that a URL, a signature or XML treats in a way of its own.
const KEYS: [&str; 8] = ["a+b", "a=b", "@", "a:b", "a,b", "...", "..a/-", "a/b=c/d+e@f:g"];

#[tokio::test]
async fn every_prefix_survives() {
    let prefixes = [
        "",
        "gofer/",
        "two words/",
        "ünï/çødé ☃/",
        "100%/",
        "%41/",
        "a+b?c#d&e=f/",
        "~tilde'quote\"<xml>/",
        "a..b/",
    ];
    for prefix in prefixes {
        let fake = Fake::start().await;
        let store = open(S3Config { prefix: prefix.to_owned(), ..config(&fake) }).await;
        for name in KEYS {
            put(&store, name, &Bytes::from_static(name.as_bytes()), PLAIN).await.expect("put");
        }

        for name in KEYS {
            assert_eq!(content(&store, name).await, name, "prefix `{prefix}`");
            assert!(
                fake.keys().contains(&format!("{prefix}{name}")),
                "`{prefix}{name}` is not in {:?}",
                fake.keys()
            );
        }

        let list = store.list("", ListPage { after: None, limit: 100 }).await.expect("list");
        let mut expected = KEYS.to_vec();
        expected.sort_unstable();
        let listed: Vec<&str> = list.objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(listed, expected, "prefix `{prefix}`");

        for name in KEYS {
            store.delete(&crate::support::key(name)).await.expect("delete");
        }

        let own = fake.keys().into_iter().filter(|key| !key.contains("~gofer-")).count();
        assert_eq!(own, 0, "prefix `{prefix}`: {:?}", fake.keys());
    }
}
