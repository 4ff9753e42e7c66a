//! Files that hold secrets, and who may read them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::value::{Dict, Value};

/// Keys that name files for everybody to read.
const PUBLIC_FILE_KEYS: [&str; 3] = ["ca_file", "cert_file", "client_ca_file"];
/// Keys that name files with secrets end like this.
const FILE_KEY_SUFFIX: &str = "_file";
/// Permissions of the group and of others.
const OTHERS_MODE_BITS: u32 = 0o077;

/// A sentence for each file of the configuration that holds a secret and may be read by others than
/// its owner.
pub(super) fn exposed(figment: &Figment) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(tables) = figment.extract::<Dict>() {
        walk("", &tables, &mut |key, path| found.extend(complaint(key, path)));
    }
    found
}

/// The files of the configuration that hold secrets.
pub(super) fn secret(figment: &Figment) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(tables) = figment.extract::<Dict>() {
        walk("", &tables, &mut |_, path| found.push(path.to_owned()));
    }
    found
}

/// Every key that names a file with a secret, and the file.
fn walk(prefix: &str, table: &Dict, found: &mut dyn FnMut(&str, &Path)) {
    for (key, value) in table {
        match value {
            Value::Dict(_, inner) => walk(&format!("{prefix}{key}."), inner, found),
            Value::String(_, path)
                if key.ends_with(FILE_KEY_SUFFIX) && !PUBLIC_FILE_KEYS.contains(&key.as_str()) =>
            {
                found(&format!("{prefix}{key}"), Path::new(path));
            }
            _ => {}
        }
    }
}

/// A file that is not there, or comes later, is not this function's business.
fn complaint(key: &str, path: &Path) -> Option<String> {
    let mode = path.metadata().ok()?.permissions().mode();
    let path = path.display();
    (mode & OTHERS_MODE_BITS != 0).then(|| {
        let mode = mode & 0o7777;
        format!(
            "{key}: `{path}` holds a secret and has mode {mode:04o}: let only its owner read it, \
             `chmod 0600 {path}`"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use figment::providers::{Format, Toml};

    use super::*;

    #[test]
    fn who_else_may_read_a_secret_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let path = dir.path().join(name);
            write(&path, "secret").unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        };

        let (token, ca, key) = (file("token", 0o644), file("ca", 0o644), file("key", 0o600));
        let text = format!(
            "[scheduler.nomad]\ntoken_file = '{token}'\nca_file = '{ca}'\nkey_file = '{key}'\n\
             [database]\nurl_file = '/nowhere/at/all'"
        );
        let told = exposed(&Figment::new().merge(Toml::string(&text)));

        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("scheduler.nomad.token_file: `{token}`")), "{told:?}");
        assert!(told[0].contains("has mode 0644"), "{told:?}");
        let mut named = secret(&Figment::new().merge(Toml::string(&text)));
        named.sort();

        let mut all = [token, key, "/nowhere/at/all".to_owned()].map(PathBuf::from);
        all.sort();
        assert_eq!(named, all);
    }
}
