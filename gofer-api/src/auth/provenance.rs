//! Where a call comes from, as far as its headers tell: a web page, a proxy, a name that leads
//! here.
//!
//! A page of another site can have a browser call a port of this machine or network. It has no
//! token, but what a server does for callers without one it would do for the page; and behind a
//! proxy that logs people in, the call carries their cookie. Browsers say which page it was, and
//! pages cannot change that.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST, ORIGIN, VIA};
use http::{HeaderMap, Uri};
use ipnet::IpNet;

use crate::config::{ServerConfig, network};
use crate::error::Foreign;

/// Says how the page that calls is related to this server; browsers alone set it.
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// What proxies tell of their callers.
const X_FORWARDED: &str = "x-forwarded-";
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_REAL_IP: &str = "x-real-ip";

/// Whom a server believes beyond tokens.
#[derive(Debug)]
pub(crate) struct Provenance {
    /// Web origins whose pages may call.
    origins: Vec<String>,
    /// Names of this server besides those that every one has.
    hosts: Vec<String>,
    /// Reached through loopback only.
    loopback: bool,
    proxies: Vec<IpNet>,
}

impl Provenance {
    /// As the configuration, which is valid, says.
    pub(crate) fn new(config: &ServerConfig, loopback: bool) -> Self {
        let server = &config.server;
        Self {
            origins: server.cors_origins.clone(),
            hosts: server.hosts.clone(),
            loopback,
            proxies: server.trusted_proxies.iter().filter_map(|proxy| network(proxy)).collect(),
        }
    }

    /// Whether the server is reached through loopback only.
    pub(crate) fn is_on_loopback(&self) -> bool {
        self.loopback
    }

    /// Refuses pages of other sites, whatever token the call has.
    pub(crate) fn check_page(&self, headers: &HeaderMap) -> Result<(), Foreign> {
        for origin in headers.get_all(ORIGIN) {
            // `null` is a page that hides where it is from.
            if !self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
                return Err(Foreign::Origin(shown(origin.as_bytes())));
            }
        }

        if headers.contains_key(ORIGIN) {
            // The configuration allows the origin by name. Its pages are of another site, so that
            // the check below would refuse them.
            return Ok(());
        }

        for site in headers.get_all(SEC_FETCH_SITE) {
            if !matches!(site.as_bytes(), b"same-origin" | b"none") {
                return Err(Foreign::Site(shown(site.as_bytes())));
            }
        }

        Ok(())
    }

    /// Refuses names that are not this server's. A page can have its own name lead here, and is
    /// then of no other site; an address cannot be made to lead elsewhere.
    pub(crate) fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Foreign> {
        let named: Vec<&[u8]> = match uri.authority() {
            Some(authority) => vec![authority.as_str().as_bytes()],
            None => headers.get_all(HOST).iter().map(http::HeaderValue::as_bytes).collect(),
        };
        // Only a program that is no browser sends no host at all.
        for name in named {
            let host = std::str::from_utf8(name)
                .ok()
                .and_then(|name| name.parse::<http::uri::Authority>().ok());
            if !host.is_some_and(|authority| self.is_own(authority.host())) {
                return Err(Foreign::Host(shown(name)));
            }
        }
        Ok(())
    }

    fn is_own(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || !self.loopback,
            Err(_) => {
                bare.eq_ignore_ascii_case("localhost")
                    || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(bare))
            }
        }
    }

    /// Refuses what came through a proxy that is not named: behind it is anybody.
    pub(crate) fn check_proxy(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<(), Foreign> {
        if self.is_proxy(peer) {
            return Ok(());
        }
        let of_proxies = |name: &str| {
            name == FORWARDED.as_str()
                || name == VIA.as_str()
                || name == X_REAL_IP
                || name.starts_with(X_FORWARDED)
        };
        match headers.keys().find(|name| of_proxies(name.as_str())) {
            Some(name) => Err(Foreign::Proxy(name.to_string())),
            None => Ok(()),
        }
    }

    /// The address of the caller; behind named proxies, the last that they tell of and that is not
    /// one of theirs.
    pub(crate) fn caller(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<IpAddr> {
        let told = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let told: Vec<&str> = told.flat_map(|value| value.split(',')).collect();
        let mut caller = peer;
        for address in told.into_iter().rev() {
            if !self.is_proxy(caller) {
                break;
            }
            match address.trim().parse() {
                Ok(address) => caller = Some(address),
                Err(_) => break,
            }
        }
        caller
    }

    fn is_proxy(&self, address: Option<IpAddr>) -> bool {
        // A socket for both kinds of addresses shows those of IPv4 as mapped ones.
        address
            .map(|ip| ip.to_canonical())
            .is_some_and(|ip| self.proxies.iter().any(|net| net.contains(&ip)))
    }
}

/// What a stranger sent, short.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .chars()
        .filter(|character| !character.is_control())
        .take(100)
        .collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn provenance(loopback: bool) -> Provenance {
        let mut config = ServerConfig::default();
        config.server.cors_origins = vec!["https://ci.example".to_owned()];
        config.server.hosts = vec!["gofer.example".to_owned()];
        config.server.trusted_proxies = vec!["10.0.0.0/8".to_owned(), "::1".to_owned()];
        Provenance::new(&config, loopback)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let check =
            |pairs: &[(&'static str, &'static str)]| provenance(true).check_page(&headers(pairs));
        let good: [&[(&str, &str)]; 5] = [
            &[],
            &[("origin", "https://ci.example")],
            &[("origin", "https://ci.example"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-origin")],
        ];

        for good in good {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }

        let bad: [&[(&str, &str)]; 8] = [
            &[("origin", "https://evil.example")],
            &[("origin", "http://ci.example")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "https://ci.example"), ("origin", "https://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
        ];

        for bad in bad {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_server_knows_its_names() {
        let check = |loopback, uri: &str, host: Option<&'static str>| {
            let host: Vec<_> = host.map(|host| ("host", host)).into_iter().collect();
            provenance(loopback).check_host(&headers(&host), &uri.parse().unwrap()).is_ok()
        };
        for loopback in [true, false] {
            assert!(
                check(loopback, "http://127.0.0.1:8469/x", None)
                    && check(loopback, "http://[::1]:8469/x", None)
            );
            assert!(check(loopback, "/x", Some("localhost:8469")) && check(loopback, "/x", None));
            assert!(
                check(loopback, "https://gofer.example/x", None)
                    && check(loopback, "/x", Some("GOFER.example:1"))
            );
            assert!(
                !check(loopback, "http://evil.example:8469/x", None)
                    && !check(loopback, "/x", Some("evil.example:8469"))
            );
            assert!(
                !check(loopback, "http://127.0.0.1.evil.example/x", None)
                    && !check(loopback, "/x", Some("a b"))
            );
            assert_eq!(check(loopback, "http://192.0.2.7/x", None), !loopback);
        }
    }

    #[test]
    fn only_named_proxies_are_believed() {
        let provenance = provenance(true);
        let (proxy, other) =
            (Some("10.1.2.3".parse().unwrap()), Some("192.0.2.7".parse().unwrap()));

        for name in [
            "forwarded",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-real-ip",
        ] {
            let headers = headers(&[(name, "192.0.2.9")]);
            assert!(
                provenance.check_proxy(&headers, other).is_err()
                    && provenance.check_proxy(&headers, None).is_err()
            );
            assert!(provenance.check_proxy(&headers, proxy).is_ok(), "{name}");
            let mapped = Some("::ffff:10.1.2.3".parse().unwrap());
            assert!(provenance.check_proxy(&headers, mapped).is_ok(), "{name}");
        }

        assert!(provenance.check_proxy(&headers(&[("user-agent", "x")]), other).is_ok());

        let chain = headers(&[
            ("x-forwarded-for", "198.51.100.1, 192.0.2.9"),
            ("x-forwarded-for", "10.9.9.9"),
        ]);
        assert_eq!(
            provenance.caller(&chain, proxy),
            Some("192.0.2.9".parse().unwrap()),
            "the first was the caller's own word"
        );
        assert_eq!(provenance.caller(&chain, other), other);
        assert_eq!(provenance.caller(&headers(&[("x-forwarded-for", "unknown")]), proxy), proxy);
    }
}
