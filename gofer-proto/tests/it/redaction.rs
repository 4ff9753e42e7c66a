//! `Debug` of a message that holds a credential does not show it.

use std::fmt::Debug;

use gofer_proto::v1::{
    BeginObjectUploadResponse, BootstrapTokenResponse, CreateTokenResponse, ExternalEvent,
    GetObjectUrlResponse, GetSecretResponse, HttpHeader, PutSecretRequest, Subscription,
};

const CREDENTIAL: &str = "hunter2-hunter2";

fn check(message: &impl Debug) {
    for shown in [format!("{message:?}"), format!("{message:#?}")] {
        assert!(!shown.contains(CREDENTIAL), "{shown}");
        assert!(shown.contains("<redacted>"), "{shown}");
    }
}

#[test]
fn credentials_are_not_shown() {
    let credential = || CREDENTIAL.to_owned();
    let header = || HttpHeader { name: "authorization".to_owned(), value: credential() };
    check(&PutSecretRequest { value: credential(), ..Default::default() });
    check(&GetSecretResponse { value: credential(), ..Default::default() });
    check(&BootstrapTokenResponse { secret: credential(), ..Default::default() });
    check(&CreateTokenResponse { secret: credential(), ..Default::default() });
    check(&Subscription {
        settings: [("token".to_owned(), credential())].into(),
        ..Default::default()
    });
    check(&ExternalEvent { headers: vec![header()], ..Default::default() });
    check(&header());
    check(&GetObjectUrlResponse { url: credential(), ..Default::default() });
    check(&BeginObjectUploadResponse { url: credential(), ..Default::default() });
}

#[test]
fn the_rest_is_shown() {
    let request = PutSecretRequest { key: "database/password".to_owned(), ..Default::default() };
    assert!(format!("{request:?}").contains("database/password"));
}
