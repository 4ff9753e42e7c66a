//! URLs that need no credentials.

use std::time::Duration;

use gofer_core::ErrorKind;
use gofer_core::object_store::{Access, ObjectStore, Presigned, UploadTerms};
use gofer_store_s3::S3Config;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::support::{config, content, fake, key, open};

const MINUTE: Duration = Duration::from_secs(60);

fn get() -> Access {
    Access::Get { file_name: None }
}

fn put() -> Access {
    Access::Put(UploadTerms::default())
}

fn text(presigned: &Presigned) -> &str {
    presigned.url.expose_secret()
}

#[tokio::test]
async fn a_url_names_the_public_endpoint_and_how_long_it_is_good() {
    let (fake, _) = fake().await;
    let public = S3Config {
        public_endpoint: Some("https://objects.example.org/".to_owned()),
        ..config(&fake)
    };

    let presigned = open(public)
        .await
        .presign(&key("a/b"), get(), MINUTE)
        .await
        .expect("presign")
        .expect("a URL");
    let url = text(&presigned);

    assert!(url.starts_with("https://objects.example.org/gofer-test/a/b?"), "{url}");
    assert!(url.contains("X-Amz-Expires=60&") && url.contains("X-Amz-Signature="), "{url}");
    let endpoint = Some("http://s3.example.org:9000".to_owned());
    let in_host = S3Config { endpoint, path_style: Some(false), ..config(&fake) };
    let presigned = open(in_host)
        .await
        .presign(&key("a/b"), put(), MINUTE)
        .await
        .expect("presign")
        .expect("a URL");
    let url = text(&presigned);

    assert!(url.starts_with("http://gofer-test.s3.example.org:9000/a/b?"), "{url}");
    let on_aws = S3Config { endpoint: None, region: "eu-north-7".to_owned(), ..config(&fake) };
    let presigned = open(on_aws)
        .await
        .presign(&key("a/b"), put(), MINUTE)
        .await
        .expect("presign")
        .expect("a URL");
    let url = text(&presigned);
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
    let presigned =
        store.presign(&key(name), put(), MINUTE).await.expect("presign").expect("a URL");
    let answer = client.put(text(&presigned)).body("by URL").send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    assert_eq!(content(store, name).await, "by URL");
    let presigned =
        store.presign(&key(name), get(), MINUTE).await.expect("presign").expect("a URL");
    let answer = client.get(text(&presigned)).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    assert_eq!(answer.text().await.expect("a body"), "by URL");
}

#[tokio::test]
async fn a_time_that_no_signature_has_is_refused() {
    let (_fake, store) = fake().await;
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    assert!(store.presign(&key("k"), get(), week).await.expect("presign").is_some());
    for ttl in [Duration::ZERO, Duration::from_millis(999), week + Duration::from_secs(1)] {
        let error = store.presign(&key("k"), get(), ttl).await.expect_err("no such time");
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().starts_with("ttl: a URL is valid for 1 s to 7 days"), "{error}");
    }
}

#[tokio::test]
async fn an_upload_keeps_to_its_terms() {
    let (_fake, store) = fake().await;
    keeps_to_terms(&store).await;
}

/// What Gofer relies on when it hands out URLs: one writes once, and only what was declared; what
/// is read has a name. Returns the SHA-256 that the store tells of an object that was declared with
/// it.
pub(crate) async fn keeps_to_terms(store: &dyn ObjectStore) -> Option<[u8; 32]> {
    let client = crate::support::plain_client();
    let body = "declared";
    let sum: [u8; 32] = Sha256::digest(body).into();
    let terms =
        UploadTerms { if_absent: true, sha256: Some(sum), size_bytes: Some(body.len() as u64) };
    let presigned = store
        .presign(&key("terms"), Access::Put(terms), MINUTE)
        .await
        .expect("presign")
        .expect("a URL");

    assert_eq!(presigned.headers.len(), 2, "{presigned:?}");
    assert!(text(&presigned).contains("content-length"), "the length is signed");
    let send = async |headers: &[(String, String)], body: &'static str| {
        let mut request = client.put(text(&presigned)).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send().await.expect("an answer")
    };

    for left_out in 0..2 {
        let mut headers = presigned.headers.clone();
        headers.remove(left_out);
        let refused = send(&headers, body).await;
        let is_minio = refused.headers().get("server").is_some_and(|name| name == "MinIO");
        assert_eq!(
            refused.status(),
            if is_minio { 400 } else { 403 },
            "without one of the signed headers"
        );
    }

    for other in ["declare", "declared more", ""] {
        let refused = send(&presigned.headers, other).await.status();
        assert!(
            [400, 403, 411].contains(&refused.as_u16()),
            "{} bytes instead: {refused}",
            other.len()
        );
    }

    assert_eq!(
        store.head(&key("terms")).await.expect_err("nothing is there").kind,
        ErrorKind::NotFound
    );
    assert_eq!(send(&presigned.headers, body).await.status(), 200);
    assert_eq!(send(&presigned.headers, body).await.status(), 412, "the URL writes once");
    assert_eq!(content(store, "terms").await, body);

    let name = Access::Get { file_name: Some("report.html".to_owned()) };
    let presigned =
        store.presign(&key("terms"), name, MINUTE).await.expect("presign").expect("a URL");
    let answer = client.get(text(&presigned)).send().await.expect("an answer");
    assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"report.html\"");
    assert_eq!(answer.text().await.expect("a body"), body);

    let told = store.head(&key("terms")).await.expect("head").sha256;
    assert!(told.is_none_or(|told| told == sum), "{told:?}");
    told
}

/// The length alone, as a real store judges it; the fake knows no signatures.
pub(crate) async fn keeps_to_the_length(store: &dyn ObjectStore) {
    let client = crate::support::plain_client();
    let terms = UploadTerms { if_absent: false, sha256: None, size_bytes: Some(8) };
    let presigned = store
        .presign(&key("length"), Access::Put(terms), MINUTE)
        .await
        .expect("presign")
        .expect("a URL");
    for (body, status) in [("declared more", 403), ("less", 403), ("", 403), ("declared", 200)] {
        let answer = client.put(text(&presigned)).body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{} bytes", body.len());
    }
    assert_eq!(content(store, "length").await, "declared");
}

#[tokio::test]
async fn bytes_that_were_not_declared_are_refused() {
    let (_fake, store) = fake().await;
    assert!(keeps_to_terms(&store).await.is_some(), "the fake tells the checksum");
    let terms = UploadTerms { if_absent: true, sha256: Some([7; 32]), size_bytes: None };
    let presigned = store
        .presign(&key("k"), Access::Put(terms), MINUTE)
        .await
        .expect("presign")
        .expect("a URL");
    let mut request = crate::support::plain_client().put(text(&presigned)).body("others");

    for (name, value) in &presigned.headers {
        request = request.header(name, value);
    }

    assert_eq!(request.send().await.expect("an answer").status().as_u16(), 400);
    assert_eq!(
        store.head(&key("k")).await.expect_err("nothing is there").kind,
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn without_conditional_writes_no_url_writes_once() {
    let (fake, _) = fake().await;
    let store = open(S3Config { conditional_writes: false, ..config(&fake) }).await;
    let once = Access::Put(UploadTerms { if_absent: true, sha256: None, size_bytes: None });
    let error = store.presign(&key("k"), once, MINUTE).await.expect_err("not here");
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert!(store.presign(&key("k"), put(), MINUTE).await.expect("presign").is_some());
}
