//! What an operator may write, and what is said about the rest.

use std::time::Duration;

use gofer_core::ErrorKind;
use gofer_secrets_vault::{AuthMethod, VaultConfig, VaultSecretStore};

const MINIMAL: &str = r#"
address = "https://vault.example.com:8200"
auth.token_file = "/run/secrets/vault-token"
"#;

fn parsed(text: &str) -> VaultConfig {
    toml::from_str(text).unwrap()
}

/// Why a setting is refused, by `connect` as by `validate`.
async fn refused(text: &str) -> String {
    let config = parsed(text);
    let error = config.validate().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{text}");
    let connected = VaultSecretStore::connect(config).await.unwrap_err();
    assert_eq!((connected.kind, &connected.message), (error.kind, &error.message), "{text}");
    error.chain()
}

#[test]
fn little_has_to_be_said() {
    let config = parsed(MINIMAL);
    config.validate().unwrap();
    assert_eq!((config.mount.as_str(), config.prefix.as_str()), ("secret", "gofer"));
    assert_eq!((config.request_timeout, config.attempts), (Duration::from_secs(10), 4));
    assert_eq!((config.namespace, config.ca_file), (None, None));
    assert_eq!(config.auth.method, AuthMethod::Token);
}

#[test]
fn everything_can_be_said() {
    let config = parsed(
        r#"
        address = "https://proxy.example.com/vault/"
        namespace = "team/ci"
        mount = "kv/shared"
        prefix = "apps/gofer"
        ca_file = "/etc/gofer/ca.pem"
        cert_file = "/etc/gofer/client.pem"
        key_file = "/etc/gofer/client.key"
        request_timeout = "2s"
        attempts = 1
        [auth]
        method = "approle"
        mount = "approle-ci"
        role_id = "r"
        secret_id_file = "/etc/gofer/secret-id"
        "#,
    );

    config.validate().unwrap();
    assert_eq!(config, config.clone());
    let others = [
        "method = 'kubernetes'\nrole = 'gofer'",
        "method = 'jwt'\njwt_file = '/secrets/nomad_vault.jwt'",
        "method = 'jwt'\njwt_file = '/secrets/nomad_vault.jwt'\nrole = 'gofer'\nmount = \
         'jwt-nomad'",
        "method = 'approle'\nrole_id = 'r'\nsecret_id = 's'",
        "method = 'token'\ntoken = 't'",
    ];

    for auth in others {
        let other =
            parsed(&format!("address = 'http://127.0.0.1:8200'\nprefix = ''\n[auth]\n{auth}"));
        other.validate().unwrap();
        assert_ne!(config, other);
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let with = |lines: &str| format!("{MINIMAL}{lines}");
    let addressed = |address: &str| format!("address = \"{address}\"\nauth.token_file = \"/t\"");
    for (text, expected) in [
        (
            "auth.token = 't'".to_owned(),
            "address: is not set; give a URL such as `https://vault.example.com:8200`",
        ),
        (addressed("vault:8200"), "address: must be a URL such as"),
        (addressed("https://"), "address: must be a URL such as"),
        (addressed("https://v:8200/v1/"), "Gofer adds `/v1` (got `https://v:8200/v1/`)"),
        (addressed("https://v:8200?x=1"), "address: must be a URL"),
        (
            with("mount = '/secret'"),
            "mount: must be the path of a KV engine, without `/` at its ends (got `/secret`)",
        ),
        (with("mount = ''"), "mount: must be"),
        (with("prefix = 'gofer/'"), "prefix: must be a folder such as `gofer`"),
        (with("namespace = ''"), "namespace: must be printable ASCII, or left out"),
        (
            with("request_timeout = '0s'"),
            "request_timeout: must be more than 0 and at most 5 minutes (got `0ns`)",
        ),
        (with("request_timeout = '6m'"), "request_timeout: must be"),
        (with("attempts = 0"), "attempts: must be 1 to 20 (got `0`)"),
        (with("cert_file = '/c'"), "cert_file, key_file: set both or none"),
        (
            format!("{}\nca_file = '/c'", addressed("http://v:8200")),
            "ca_file: is for TLS, and `address` starts with",
        ),
        (with("auth.token = 't'"), "auth.token, auth.token_file: set one of them, not both"),
        (
            with("auth.role_id = 'r'"),
            "auth.role_id: belongs to the method `approle`, and `auth.method` is `token`",
        ),
        (
            with("auth.jwt_file = '/j'"),
            "auth.jwt_file: belongs to the method `kubernetes`, `jwt`, and",
        ),
        (with("auth.method = 'jwt'"), "auth.token_file: belongs to the method `token`"),
        (method("jwt"), "auth.jwt_file: is not set; the auth method `jwt` needs it"),
        (method("kubernetes"), "auth.role: is not set; the auth method `kubernetes` needs it"),
        (method("approle"), "auth.role_id: is not set; the auth method `approle` needs it"),
        (method("token"), "auth.token_file: is not set; set it, or `auth.token`"),
        (
            format!("{}auth.role_id = 'r'", method("approle")),
            "auth.secret_id_file: is not set; set it, or",
        ),
        (
            format!("{}auth.jwt_file = '/j'\nauth.mount = 'auth/'", method("jwt")),
            "auth.mount: must be the path of",
        ),
    ] {
        let error = refused(&text).await;
        assert!(error.contains(expected), "{text}\n{error}");
    }
}

fn method(name: &str) -> String {
    format!("address = \"https://v:8200\"\nauth.method = \"{name}\"\n")
}

#[test]
fn unknown_keys_and_methods_are_errors() {
    for text in ["adress = 'x'", "auth.tokn = 'x'", "auth.method = 'ldap'"] {
        let error = toml::from_str::<VaultConfig>(text).unwrap_err().to_string();
        let word = text.split([' ', '.']).find(|word| error.contains(&word.replace('\'', "")));
        assert!(word.is_some(), "{error}");
    }
}

#[tokio::test]
async fn no_secret_is_shown() {
    let config = parsed(
        "address = 'https://v:8200'\n[auth]\nmethod = 'approle'\nrole_id = 'role'\nsecret_id = \
         'hunter2-secret'",
    );
    let token = parsed("address = 'https://v:8200'\n[auth]\ntoken = 'hunter2-token'");
    let shown = format!("{config:?} {token:?}");

    assert!(!shown.contains("hunter2") && shown.contains("role"), "{shown}");

    // A password in an address, and a token that is none.
    let error = refused("address = 'https://user:hunter2@v:8200'\nauth.token = 't'").await;
    assert!(!error.contains("hunter2") && error.contains("has a user or a password"), "{error}");
    let config = parsed("address = 'http://127.0.0.1:1'\nauth.token = 'hunter2 hunter2'");
    let error = VaultSecretStore::connect(config).await.unwrap_err();
    assert_eq!(
        error.chain(),
        "auth.token must hold one credential of printable ASCII and nothing else"
    );
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };

    let (empty, binary) = (file("empty", b" \n"), file("binary", b"hunter2\xff"));
    let missing = dir.path().join("missing").display().to_string();
    for (key, path) in [
        ("ca_file", &empty),
        ("ca_file", &missing),
        ("auth.token_file", &empty),
        ("auth.token_file", &binary),
    ] {
        let token = if key == "ca_file" { "auth.token = 't'" } else { "" };
        let config = parsed(&format!("address = 'https://127.0.0.1:1'\n{key} = '{path}'\n{token}"));
        let error = VaultSecretStore::connect(config).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with(&format!("{key}: `{path}` must")), "{error}");
        assert!(!error.chain().contains("hunter2"), "{}", error.chain());
    }

    let config = parsed(&format!("address = 'https://127.0.0.1:1'\nauth.token_file = '{missing}'"));
    let error = VaultSecretStore::connect(config).await.unwrap_err();

    // Whoever writes the file may be about to.
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.chain().contains("No such file"), "{}", error.chain());
}
