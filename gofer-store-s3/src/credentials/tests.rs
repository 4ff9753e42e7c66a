//! Credentials from each place, and their renewal.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, put};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// A metadata service whose keys count up, each good for so long.
struct Metadata {
    endpoint: String,
    asked: Arc<AtomicU32>,
    server: JoinHandle<()>,
}

impl Metadata {
    async fn start(good_for: Duration, role: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicU32::new(0));
        let router = Router::new()
            .route("/latest/api/token", put(|| async { "a-session" }))
            .route("/latest/meta-data/iam/security-credentials/", get(move || async move { role }))
            .route("/latest/meta-data/iam/security-credentials/{role}", get(keys))
            .with_state((Arc::clone(&asked), good_for));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, asked, server }
    }

    fn keyring(&self) -> Keyring {
        let config = S3Config {
            bucket: "team".to_owned(),
            credentials: CredentialSource::Instance,
            ..S3Config::default()
        };
        let instance = Instance::at(&self.endpoint, Duration::from_secs(5)).unwrap();
        Keyring { config, instance, current: RwLock::default(), loading: Mutex::default() }
    }
}

async fn keys(
    State((asked, good_for)): State<(Arc<AtomicU32>, Duration)>,
    Path(role): Path<String>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    if headers.get("x-aws-ec2-metadata-token").is_none_or(|token| token != "a-session")
        || role != "gofer"
    {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
    let ends_at = jiff::Timestamp::now() + good_for;
    Ok(format!(
        r#"{{"Code":"Success","AccessKeyId":"AK{number}","SecretAccessKey":"private","Token":"session","Expiration":"{ends_at}"}}"#
    ))
}

const HOUR: Duration = Duration::from_secs(60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_role_is_asked_once_while_its_keys_are_good() {
    let metadata = Metadata::start(HOUR, "gofer\n").await;
    let keyring = metadata.keyring();
    for _ in 0..3 {
        let signer = keyring.signer().await.unwrap();
        assert_eq!(signer.keys.access_key, "AK1");
        assert_eq!(signer.bucket.session_token().await.unwrap().as_deref(), Some("session"));
        assert!(!format!("{keyring:?}").contains("private"));
    }
    assert_eq!(metadata.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn keys_are_renewed_before_they_end_and_kept_when_that_fails() {
    let metadata = Metadata::start(MINUTE, "gofer").await;
    let keyring = metadata.keyring();
    assert_eq!(keyring.signer().await.unwrap().keys.access_key, "AK1");
    // Tried just now: no better ones are to be had for a while.
    assert_eq!(keyring.signer().await.unwrap().keys.access_key, "AK1");
    *keyring.loading.lock().await = None;
    assert_eq!(keyring.signer().await.unwrap().keys.access_key, "AK2");
    metadata.server.abort();
    *keyring.loading.lock().await = None;
    assert_eq!(keyring.signer().await.unwrap().keys.access_key, "AK2");
}

#[tokio::test]
async fn refused_keys_are_replaced_when_there_are_others() {
    let metadata = Metadata::start(HOUR, "gofer").await;
    let keyring = metadata.keyring();
    let signer = keyring.signer().await.unwrap();
    assert!(keyring.renewed(&signer).await);
    assert_eq!(keyring.signer().await.unwrap().keys.access_key, "AK2");
    // Somebody else was refused with the old ones: the new are there already.
    assert!(keyring.renewed(&signer).await);
    assert_eq!(metadata.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_not_gathered() {
    let role: &'static str = "r".repeat(1024 * 1024).leak();
    let metadata = Metadata::start(HOUR, role).await;
    let error = metadata.keyring().signer().await.unwrap_err();
    let expected = "does not give the role, but more than 65536 bytes";
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[tokio::test]
async fn a_machine_without_a_role_is_told_so() {
    let metadata = Metadata::start(HOUR, "").await;
    let error = metadata.keyring().signer().await.unwrap_err();
    assert_eq!(error.to_string(), "credentials: this machine has no role; attach one to it");
    metadata.server.abort();
    let gone = Metadata {
        server: tokio::spawn(async {}),
        endpoint: "http://127.0.0.1:9".to_owned(),
        ..metadata
    };
    let error = gone.keyring().signer().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "credentials: instance metadata at `http://127.0.0.1:9` does not give a session"
    );
}

/// What a process with these variables finds: the environment of this one is shared by all tests.
fn found_by_child(source: &str, variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "credentials::tests::child", "--ignored", "--nocapture"]);
    child.env_clear().env("GOFER_TEST_SOURCE", source).envs(variables.iter().copied());
    let output = child.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[ignore = "is run as a child by others"]
async fn child() {
    let Ok(source) = std::env::var("GOFER_TEST_SOURCE") else { return };
    let credentials = match source.as_str() {
        "environment" => CredentialSource::Environment,
        "file" => CredentialSource::File,
        _ => CredentialSource::Auto,
    };
    let keyring =
        Keyring::new(&S3Config { bucket: "team".to_owned(), credentials, ..S3Config::default() })
            .unwrap();
    match keyring.signer().await {
        Ok(signer) => println!("found {} {}", signer.keys.access_key, signer.keys.token.is_some()),
        Err(error) => println!("{}", error.chain()),
    }
}

#[test]
fn the_environment_is_read() {
    let both = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "x")];
    for source in ["environment", "auto"] {
        let found = found_by_child(source, &both);
        assert!(found.contains("found AKENV false"), "{found}");
    }
    let found = found_by_child("environment", &[both[0], both[1], ("AWS_SESSION_TOKEN", "t")]);
    assert!(found.contains("found AKENV true"), "{found}");
    let found = found_by_child("environment", &both[..1]);
    assert!(
        found.contains("`AWS_SECRET_ACCESS_KEY` is not set in the server's environment"),
        "{found}"
    );
}

#[test]
fn a_profile_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    let text = "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = \
                x\n\n[team]\naws_access_key_id = AKTEAM\naws_secret_access_key = \
                y\naws_session_token = t\n";
    std::fs::write(&file, text).unwrap();

    let file = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    for source in ["file", "auto"] {
        let found = found_by_child(source, &[file]);
        assert!(found.contains("found AKFILE false"), "{found}");
    }

    let found = found_by_child("file", &[file, ("AWS_PROFILE", "team")]);
    assert!(found.contains("found AKTEAM true"), "{found}");
    let found = found_by_child("file", &[file, ("AWS_PROFILE", "other")]);
    assert!(found.contains("there is no profile `other`"), "{found}");
}

#[test]
fn finding_none_says_where_was_looked() {
    let nowhere =
        [("HOME", "/nonexistent"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")];
    let found = found_by_child("auto", &nowhere);
    assert!(
        found.contains("credentials: none found; set access_key and secret_key_file"),
        "{found}"
    );
    assert!(
        found.contains("there is no profile `default`") && found.contains("instance metadata at"),
        "{found}"
    );
}
