//! URLs that need no credentials.

use std::time::Duration;

use gofer_core::ErrorKind;
use gofer_core::object_store::{Access, ObjectStore};
use gofer_store_s3::S3Config;

use crate::support::{config, content, fake, key, open};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_url_names_the_public_endpoint_and_how_long_it_is_good() {
    let (fake, _) = fake().await;
    let public = S3Config { public_endpoint: Some("https://objects.example.org/".to_owned()), ..config(&fake) };
    let url = open(public).await.presign(&key("a/b"), Access::Get, MINUTE).await.expect("presign").expect("a URL");
    assert!(url.starts_with("https://objects.example.org/gofer-test/a/b?"), "{url}");
    assert!(url.contains("X-Amz-Expires=60&") && url.contains("X-Amz-Signature="), "{url}");
    let endpoint = Some("http://s3.example.org:9000".to_owned());
    let in_host = S3Config { endpoint, path_style: Some(false), ..config(&fake) };
    let url = open(in_host).await.presign(&key("a/b"), Access::Put, MINUTE).await.expect("presign").expect("a URL");
    assert!(url.starts_with("http://gofer-test.s3.example.org:9000/a/b?"), "{url}");
    let on_aws = S3Config { endpoint: None, region: "eu-north-7".to_owned(), ..config(&fake) };
    let url = open(on_aws).await.presign(&key("a/b"), Access::Put, MINUTE).await.expect("presign").expect("a URL");
    assert!(url.starts_with("https://gofer-test.s3.eu-north-7.amazonaws.com/a/b?"), "{url}");
}

#[tokio::test]
async fn a_plain_client_puts_and_gets_with_them() {
    let (_fake, store) = fake().await;
    put_and_get(&store).await;
}

/// What a task does with the two URLs.
pub(crate) async fn put_and_get(store: &dyn ObjectStore) {
    let client = crate::support::plain_client();
    let name = "presigned/a=b+c@d:e,f";
    let url = store.presign(&key(name), Access::Put, MINUTE).await.expect("presign").expect("a URL");
    let answer = client.put(url).body("by URL").send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    assert_eq!(content(store, name).await, "by URL");
    let url = store.presign(&key(name), Access::Get, MINUTE).await.expect("presign").expect("a URL");
    let answer = client.get(url.as_str()).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    assert_eq!(answer.text().await.expect("a body"), "by URL");
}

#[tokio::test]
async fn a_time_that_no_signature_has_is_refused() {
    let (_fake, store) = fake().await;
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    assert!(store.presign(&key("k"), Access::Get, week).await.expect("presign").is_some());
    for ttl in [Duration::ZERO, Duration::from_millis(999), week + Duration::from_secs(1)] {
        let error = store.presign(&key("k"), Access::Get, ttl).await.expect_err("no such time");
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().starts_with("ttl: a URL is valid for 1 s to 7 days"), "{error}");
    }
}
