//! Calls that a page, a proxy or a name of somebody else's brought here, over HTTP/2 with and
//! without TLS.

use gofer_api::config::ServerConfig;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::certificates::{Authority, Files};
use crate::harness::{TestServer, assert_refused};
use crate::raw;

const LIST: &str = "/gofer.v1.NamespaceService/ListNamespaces";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const BOOTSTRAP: &str = "/gofer.v1.TokenService/BootstrapToken";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What a browser adds to the request of a page, and why it is refused.
const PAGES: [(&[(&str, &str)], &str); 5] = [
    (&[("origin", "https://evil.example")], "FOREIGN_ORIGIN"),
    (&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], "FOREIGN_ORIGIN"),
    (&[("origin", "null")], "FOREIGN_ORIGIN"),
    (&[("sec-fetch-site", "cross-site")], "CROSS_SITE"),
    (&[("sec-fetch-site", "same-site")], "CROSS_SITE"),
];
const PROXIES: [&str; 5] = ["x-forwarded-for", "x-forwarded-host", "forwarded", "via", "x-real-ip"];

fn owned(headers: &[(&'static str, &str)], token: Option<&str>) -> Vec<(&'static str, String)> {
    let token = token.map(|token| ("authorization", format!("Bearer {token}")));
    headers.iter().map(|(name, value)| (*name, (*value).to_owned())).chain(token).collect()
}

async fn refused_pages(channel: &Channel, token: Option<&str>) {
    for path in [LIST, REFLECTION, BOOTSTRAP, HEALTH] {
        for (headers, reason) in PAGES {
            let answer = raw::call_with(channel, path, &owned(headers, token), Vec::new()).await;
            assert_refused(answer, Code::PermissionDenied, reason);
        }
    }
}

/// A connection that names the server as somebody else's page would.
async fn named(server: &TestServer, origin: &'static str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.server().addr())).unwrap();
    endpoint.origin(origin.parse().unwrap()).connect().await.unwrap()
}

async fn open(configure: impl FnOnce(&mut ServerConfig)) -> TestServer {
    TestServer::start_with(|config| {
        config.server.allow_anonymous = true;
        configure(config);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_is_refused_with_and_without_a_token() {
    let server = TestServer::start().await;
    let own = server.own_token().unwrap();
    refused_pages(&server.channel(), None).await;
    refused_pages(&server.channel(), Some(&own)).await;

    let evil = named(&server, "http://evil.example:8469").await;
    for path in [LIST, REFLECTION, BOOTSTRAP] {
        assert_refused(
            raw::call(&evil, path, None, Vec::new()).await,
            Code::PermissionDenied,
            "FOREIGN_HOST",
        );
    }

    let bare = raw::call(&server.channel(), LIST, None, Vec::new()).await;
    assert_refused(bare, Code::Unauthenticated, "TOKEN_MISSING");

    // A token is proof enough of whatever name leads here.
    raw::call(&evil, LIST, Some(&own), Vec::new()).await.unwrap();
    for name in PROXIES {
        let headers = owned(&[(name, "192.0.2.7")], Some(&own));
        raw::call_with(&server.channel(), LIST, &headers, Vec::new()).await.unwrap();
    }

    let open = open(|_| {}).await;
    refused_pages(&open.channel(), None).await;
    let evil = named(&open, "http://evil.example:8469").await;
    assert_refused(
        raw::call(&evil, LIST, None, Vec::new()).await,
        Code::PermissionDenied,
        "FOREIGN_HOST",
    );
    raw::call(&open.channel(), LIST, None, Vec::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_on_loopback_changes_nothing() {
    let authority = Authority::new();
    let files = Files::new(authority.sign());
    let server = files.serve(None).await;
    let connect = async |origin: Option<&'static str>| {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .domain_name("localhost");
        let mut endpoint =
            Endpoint::from_shared(format!("https://{}", server.server().addr())).unwrap();
        if let Some(origin) = origin {
            endpoint = endpoint.origin(origin.parse().unwrap());
        }

        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    };

    let channel = connect(None).await;
    let own = server.own_token().unwrap();
    let bare = raw::call(&channel, LIST, None, Vec::new()).await;
    assert_refused(bare, Code::Unauthenticated, "TOKEN_MISSING");
    raw::call(&channel, LIST, Some(&own), Vec::new()).await.unwrap();
    refused_pages(&channel, None).await;
    refused_pages(&channel, Some(&own)).await;

    let evil = connect(Some("https://evil.example")).await;
    assert_refused(
        raw::call(&evil, LIST, None, Vec::new()).await,
        Code::PermissionDenied,
        "FOREIGN_HOST",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_through_a_proxy_has_a_token_or_a_named_proxy() {
    let server = open(|_| {}).await;
    for name in PROXIES {
        let headers = owned(&[(name, "192.0.2.7")], None);
        for path in [LIST, REFLECTION, BOOTSTRAP] {
            let through = raw::call_with(&server.channel(), path, &headers, Vec::new()).await;
            assert_refused(through, Code::PermissionDenied, "UNTRUSTED_PROXY");
        }
        raw::call_with(&server.channel(), HEALTH, &headers, Vec::new()).await.unwrap();
    }

    let trusting =
        open(|config| config.server.trusted_proxies = vec!["127.0.0.0/8".to_owned()]).await;
    for name in PROXIES {
        let headers = owned(&[(name, "192.0.2.7")], None);
        raw::call_with(&trusting.channel(), LIST, &headers, Vec::new()).await.unwrap();
    }

    let named_by = open(|config| config.server.hosts = vec!["gofer.example".to_owned()]).await;
    let channel = named(&named_by, "http://gofer.example:80").await;
    raw::call(&channel, LIST, None, Vec::new()).await.unwrap();
}
