//! Settings: what is taken, what is refused and how, and what is shown.

use gofer_core::ErrorKind;
use gofer_store_s3::{CredentialSource, S3Config, S3ObjectStore};

fn parse(text: &str) -> S3Config {
    toml::from_str(text).expect("settings")
}

const GOOD: &str = "bucket = 'team'\naccess_key = 'AK'\nsecret_key = 'the-secret-key'\n";

#[test]
fn every_setting_can_be_set() {
    let text = "
        bucket = 'team-objects'
        prefix = 'gofer/'
        endpoint = 'https://s3.example.org:9000'
        region = 'eu-central-1'
        path_style = true
        public_endpoint = 'https://objects.example.org'
        credentials = 'config'
        access_key = 'AK'
        secret_key_file = '/run/secrets/s3'
        session_token = 'a-token'
        ca_file = '/etc/ssl/team.pem'
        request_timeout = '10s'
        attempts = 3
        part_size = 10485760
        conditional_writes = true
        check_timeout = '5s'";
    let config = parse(text);

    config.validate().expect("valid");
    assert_eq!(
        (config.credentials, config.part_size),
        (CredentialSource::Config, 10 * 1024 * 1024)
    );
}

#[test]
fn each_wrong_setting_is_named_with_its_rule() {
    let cases = [
        ("", "bucket: is not set; name the bucket that holds the objects"),
        (
            "bucket = 'a b c'",
            "bucket: must be 3 to 63 letters, digits, `.`, `-` and `_` (got `a b c`)",
        ),
        ("bucket = 'team'\nprefix = '/x'", "prefix: must be at most 256 bytes without"),
        ("bucket = 'team'\nprefix = 'a/../b'", "prefix: must be"),
        (
            "bucket = 'team'\nendpoint = 's3.example.org'",
            "endpoint: is no URL; write `https://host` or `http://host:port`",
        ),
        (
            "bucket = 'team'\nendpoint = 'ftp://x'",
            "endpoint: must begin with `https://` or `http://` (got `ftp://x`)",
        ),
        (
            "bucket = 'team'\nendpoint = 'http://u:secret@x'",
            "endpoint: must not hold a user or password",
        ),
        (
            "bucket = 'team'\npublic_endpoint = 'http://x/y?z'",
            "public_endpoint: must have no `?` and no `#`",
        ),
        (
            "bucket = 'team'\npath_style = false\nendpoint = 'http://x/y'",
            "endpoint: must have no path unless path_style is true",
        ),
        ("bucket = 'team'\naccess_key = 'AK'", "secret_key_file: is not set, though access_key is"),
        ("bucket = 'team'\nsecret_key = 'x'", "access_key: is not set, though its secret is"),
        (
            "bucket = 'team'\ncredentials = 'config'",
            "access_key: is not set, though credentials is `config`",
        ),
        ("bucket = 'team'\nregion = ''", "region: must be letters, digits and `-`"),
    ];

    for (text, expected) in cases {
        let error = parse(text).validate().expect_err(text);
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!error.chain().contains("secret@"), "{}", error.chain());
    }

    let more = [
        ("secret_key_file = '/x'", "secret_key, secret_key_file: set one of them, not both"),
        ("credentials = 'file'", "credentials: must be `config` or `auto` when access_key is set"),
        ("attempts = 0", "attempts: must be 1 to 20 (got `0`)"),
        ("part_size = 1024", "part_size: must be 5242880 (5 MiB) to 15728640 (15 MiB), got `1024`"),
        ("request_timeout = '0s'", "request_timeout: must be longer than `0s`"),
        ("check_timeout = '0s'", "check_timeout: must be longer than `0s`"),
    ];

    for (text, expected) in more {
        let error = parse(&format!("{GOOD}{text}")).validate().expect_err(text);
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    assert!(toml::from_str::<S3Config>("buckets = 'x'").is_err(), "an unknown key was taken");
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let config = parse(&format!("{GOOD}session_token = 'the-session-token'"));
    let store = S3ObjectStore::connect(config.clone()).await.expect("connect");
    for shown in
        [format!("{config:?}"), format!("{config:#?}"), format!("{store:?}"), format!("{store:#?}")]
    {
        assert!(shown.contains("<secret>"), "{shown}");
        assert!(
            !shown.contains("the-secret-key") && !shown.contains("the-session-token"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn files_that_are_missing_or_empty_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "\n").expect("written");
    let with = |secret: &str, ca: &str| {
        parse(&format!("bucket = 'team'\naccess_key = 'AK'\nsecret_key_file = '{secret}'\n{ca}"))
    };

    let empty = empty.display();
    let cases = [
        (with("/no/such/file", ""), "secret_key_file: cannot read `/no/such/file`".to_owned()),
        (
            with(&empty.to_string(), ""),
            format!("secret_key_file: `{empty}` is empty; write the key's secret into it"),
        ),
        (
            parse(&format!("{GOOD}ca_file = '/no/ca.pem'")),
            "ca_file: cannot read certificates from `/no/ca.pem`".to_owned(),
        ),
        (
            parse(&format!("{GOOD}ca_file = '{empty}'")),
            format!("ca_file: `{empty}` holds no certificate; it must be PEM"),
        ),
    ];

    for (config, expected) in cases {
        let error = S3ObjectStore::connect(config).await.expect_err(&expected);
        assert_eq!((error.kind, error.to_string()), (ErrorKind::Invalid, expected));
    }
}
