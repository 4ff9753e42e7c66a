//! What a server on this machine leaves for its own user: a token (dev mode), and the code that
//! makes the first management token. Each is in the server's data directory; a link that is named
//! after the server's address leads to it.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use http::Uri;
use secrecy::SecretString;

/// Longest file that is read.
const MAX_BYTES: u64 = 4 * 1024;
/// Permissions of the group and of others.
const OTHERS: u32 = 0o077;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Token,
    Bootstrap,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bootstrap => "bootstrap",
        }
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) secret: SecretString,
    /// Where the server that it is for listens, as the server says: what was found is sent nowhere
    /// else.
    pub(crate) addr: String,
}

/// The folder of the links: `$XDG_STATE_HOME/gofer/servers`, else `~/.local/state/gofer/servers`.
pub(crate) fn links_dir() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("gofer/servers"))
}

/// What the server at this address has left here.
///
/// # Errors
/// A sentence that says where it was looked for, and why there is nothing.
pub(crate) fn find(uri: &Uri, kind: Kind) -> Result<Found, String> {
    find_in(links_dir().as_deref(), uri, kind)
}

fn find_in(links: Option<&Path>, uri: &Uri, kind: Kind) -> Result<Found, String> {
    let what = match kind {
        Kind::Token => "token",
        Kind::Bootstrap => "code",
    };

    let listening = addresses(uri);
    if listening.is_empty() {
        return Err(format!("a {what} is looked for by itself only for a server on this machine"));
    }

    let links = links.ok_or_else(|| {
        format!("no {what} was looked for: neither `XDG_STATE_HOME` nor `HOME` is set")
    })?;

    let mut why = String::new();
    for addr in listening {
        let path = links.join(format!("{addr}.{}", kind.name()));
        let expected = format!("{}://{addr}", uri.scheme_str().unwrap_or("http"));
        match open(&path, &expected) {
            Ok(secret) => return Ok(Found { secret, addr: expected }),
            Err(problem) if why.is_empty() => {
                why = format!("no {what} was found by itself: `{}` {problem}", path.display())
            }
            // The name stands for two addresses; the first says enough.
            Err(_) => {}
        }
    }

    Err(why)
}

/// The addresses of this machine that the URL may mean.
fn addresses(uri: &Uri) -> Vec<SocketAddr> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => vec![ip],
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        _ => Vec::new(),
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

/// Reads the file behind a link, if it is the caller's own and nobody else can read it.
fn open(path: &Path, expected: &str) -> Result<SecretString, String> {
    let cannot = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    };

    let mut file = File::open(path).map_err(cannot)?;
    let found = file.metadata().map_err(cannot)?;
    let (owner, caller) = (found.uid(), rustix::process::geteuid().as_raw());
    if !found.is_file() {
        return Err("is not a file".to_owned());
    }

    if owner != caller {
        return Err(format!("belongs to user {owner}, not to you ({caller})"));
    }

    if found.mode() & OTHERS != 0 {
        let mode = found.mode() & 0o7777;
        return Err(format!(
            "may be read by others (mode {mode:04o}); restart the server, which makes a new one"
        ));
    }

    let mut text = String::new();
    file.by_ref().take(MAX_BYTES).read_to_string(&mut text).map_err(cannot)?;
    match text.lines().collect::<Vec<_>>()[..] {
        [secret, addr, ..] if addr == expected && !secret.is_empty() => {
            Ok(SecretString::from(secret))
        }
        [_, addr, ..] => Err(format!("is for the server at `{addr}`")),
        _ => Err("holds nothing of a server".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn only_ones_own_private_file_is_read_and_for_its_server_alone() {
        let (links, data) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (file, link) = (data.path().join("token"), links.path().join("127.0.0.1:8469.token"));
        fs::write(&file, "gofer_t_x\nhttp://127.0.0.1:8469\n").expect("a file");
        symlink(&file, &link).expect("a link");

        let find =
            |addr: &str| find_in(Some(links.path()), &addr.parse().expect("a URI"), Kind::Token);
        let set_mode =
            |mode| set_permissions(&file, Permissions::from_mode(mode)).expect("an own file");

        for (mode, is_read) in
            [(0o644, false), (0o640, false), (0o602, false), (0o600, true), (0o400, true)]
        {
            set_mode(mode);
            let found = find("http://127.0.0.1:8469");
            assert_eq!(found.is_ok(), is_read, "{mode:o}: {found:?}");
            assert!(is_read || found.expect_err("refused").contains(&format!("(mode {mode:04o})")));
        }

        set_mode(0o600);
        let found = find("http://localhost:8469").expect("the same server");
        assert_eq!(
            (found.secret.expose_secret(), found.addr.as_str()),
            ("gofer_t_x", "http://127.0.0.1:8469")
        );

        for (addr, why) in [
            ("http://127.0.0.1:8470", "does not exist"),
            ("http://[::1]:8469", "does not exist"),
            ("https://127.0.0.1:8469", "is for the server at `http://127.0.0.1:8469`"),
            ("http://192.0.2.1:8469", "only for a server on this machine"),
            ("http://localhost.example:8469", "only for a server on this machine"),
        ] {
            let refused = find(addr).expect_err(addr);
            assert!(refused.contains(why), "{addr}: {refused}");
        }

        symlink(&file, links.path().join("127.0.0.1:9.token")).expect("a link");
        assert!(
            find("http://127.0.0.1:9").expect_err("another port").contains("is for the server at")
        );
        fs::remove_file(&file).expect("an own file");
        fs::create_dir(&file).expect("a folder");
        assert!(find("http://127.0.0.1:8469").expect_err("a folder").contains("is not a file"));
    }
}
