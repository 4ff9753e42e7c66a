//! The operator's settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind, SecretPath};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Where Kubernetes puts the token of a pod's service account.
const KUBERNETES_TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Longest wait for one answer: a task waits for the secret during this time.
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Most attempts at one call.
const MAX_ATTEMPTS: u32 = 20;

/// Settings of the Vault secret store, the table `[secrets.vault]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VaultConfig {
    /// URL of the server or of a proxy before it, `https://host:port`, with a path if the proxy
    /// wants one.
    pub address: String,
    /// Namespace, for Vault Enterprise, HCP and OpenBao. `sys/health` is asked without it.
    pub namespace: Option<String>,
    /// Path of the KV engine, version 2.
    pub mount: String,
    /// Folder below the mount that is Gofer's. Empty: the whole mount is.
    pub prefix: String,
    /// PEM file of the authorities to trust; without it, the operating system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of a client certificate and its chain, for a server that asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's private key.
    pub key_file: Option<PathBuf>,
    /// How long one answer may take, connecting included.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How often one call is tried in all, 1 to 20, while the server is sealed, busy or out of
    /// reach.
    pub attempts: u32,
    /// How Gofer proves who it is.
    pub auth: AuthConfig,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            address: String::new(),
            namespace: None,
            mount: "secret".to_owned(),
            prefix: "gofer".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            request_timeout: Duration::from_secs(10),
            attempts: 4,
            auth: AuthConfig::default(),
        }
    }
}

/// How Gofer proves who it is: the table `[secrets.vault.auth]`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Which auth method; decides which of the other keys belong here.
    pub method: AuthMethod,
    /// `token`: the token itself; better a file.
    pub token: Option<SecretString>,
    /// `token`: a file that holds the token, such as an agent writes; read again when the token is
    /// refused or runs out.
    pub token_file: Option<PathBuf>,
    /// `approle`: the role's id.
    pub role_id: Option<String>,
    /// `approle`: the secret id; better a file.
    pub secret_id: Option<SecretString>,
    /// `approle`: a file that holds the secret id; read again at every login.
    pub secret_id_file: Option<PathBuf>,
    /// `kubernetes` and `jwt`: the role's name. `jwt` may leave it to the method's default role.
    pub role: Option<String>,
    /// `jwt`: a file that holds the JWT, such as Nomad writes for a workload identity.
    /// `kubernetes`: by default the pod's service account token. Read again at every login.
    pub jwt_file: Option<PathBuf>,
    /// Path of the auth method; by default the method's name.
    pub mount: Option<String>,
}

/// Vault's auth methods that Gofer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// A token that somebody else made.
    #[default]
    Token,
    /// A role id and a secret id.
    #[serde(rename = "approle")]
    AppRole,
    /// A pod's service account.
    Kubernetes,
    /// A signed JWT, such as a Nomad workload identity.
    Jwt,
}

impl AuthMethod {
    /// Its name in the configuration, and where Vault mounts it by default.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::AppRole => "approle",
            Self::Kubernetes => "kubernetes",
            Self::Jwt => "jwt",
        }
    }
}

impl VaultConfig {
    /// The product's name, in configurations and answers.
    pub const PRODUCT: &'static str = "vault";
    /// Whether all servers on one database see the same: it is a server of its own.
    pub const SHARED: bool = true;

    /// Checks every value against its rule. Reads no file.
    ///
    /// # Errors
    /// `Invalid`, naming the key, the value and the rule.
    pub fn validate(&self) -> Result<(), BackendError> {
        self.url()?;
        if self.namespace.as_ref().is_some_and(|name| name.is_empty() || !is_header_text(name)) {
            return invalid(
                "namespace",
                self.namespace.as_deref().unwrap_or_default(),
                "printable ASCII, or left out",
            );
        }

        if SecretPath::new(&self.mount).is_err() {
            return invalid(
                "mount",
                &self.mount,
                "the path of a KV engine, without `/` at its ends",
            );
        }

        if !self.prefix.is_empty() && SecretPath::new(&self.prefix).is_err() {
            return invalid(
                "prefix",
                &self.prefix,
                "a folder such as `gofer`, without `/` at its ends, or empty",
            );
        }

        self.validate_tls()?;
        if self.request_timeout.is_zero() || self.request_timeout > MAX_REQUEST_TIMEOUT {
            let given = format!("{:?}", self.request_timeout);
            return invalid("request_timeout", &given, "more than 0 and at most 5 minutes");
        }

        if !(1..=MAX_ATTEMPTS).contains(&self.attempts) {
            return invalid("attempts", &self.attempts.to_string(), "1 to 20");
        }

        self.auth.validate()
    }

    fn validate_tls(&self) -> Result<(), BackendError> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(error("cert_file, key_file: set both or none"));
        }

        let files = [
            ("ca_file", &self.ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
        ];

        for (key, file) in files {
            if file.is_some() && self.address.starts_with("http://") {
                return Err(error(format!(
                    "{key}: is for TLS, and `address` starts with `http://`; use `https://`"
                )));
            }
        }

        Ok(())
    }

    /// The address, without a slash at its end.
    pub(crate) fn url(&self) -> Result<Url, BackendError> {
        const RULE: &str = "a URL such as `https://vault.example.com:8200`";

        // A broken address is not shown: it might be a URL with a password in it.
        let Ok(mut url) = Url::parse(&self.address) else {
            return if self.address.is_empty() {
                Err(error(format!("address: is not set; give {RULE}")))
            } else {
                Err(error(format!("address: must be {RULE}")))
            };
        };

        if !url.username().is_empty() || url.password().is_some() {
            return Err(error(format!(
                "address: has a user or a password, which Vault does not know; give {RULE}"
            )));
        }

        let is_plain = url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !is_plain {
            return invalid("address", &self.address, RULE);
        }

        let path = url.path().trim_end_matches('/').to_owned();
        if path.ends_with("/v1") {
            return invalid("address", &self.address, "the address alone; Gofer adds `/v1`");
        }

        url.set_path(&path);
        Ok(url)
    }
}

impl AuthConfig {
    fn validate(&self) -> Result<(), BackendError> {
        self.refuse_keys_of_other_methods()?;
        if let Some(mount) = &self.mount
            && SecretPath::new(mount).is_err()
        {
            return invalid(
                "auth.mount",
                mount,
                "the path of an auth method, without `auth/` and `/` at its ends",
            );
        }

        let wanted = |key: &str| {
            Err(error(format!(
                "auth.{key}: is not set; the auth method `{}` needs it",
                self.method.as_str()
            )))
        };

        match self.method {
            AuthMethod::Token => {
                exactly_one("token", self.token.is_some(), "token_file", self.token_file.is_some())
            }
            AuthMethod::AppRole if self.role_id.is_none() => wanted("role_id"),
            AuthMethod::AppRole => {
                let (value, file) = (self.secret_id.is_some(), self.secret_id_file.is_some());
                exactly_one("secret_id", value, "secret_id_file", file)
            }
            AuthMethod::Kubernetes if self.role.is_none() => wanted("role"),
            AuthMethod::Jwt if self.jwt_file.is_none() => wanted("jwt_file"),
            AuthMethod::Kubernetes | AuthMethod::Jwt => Ok(()),
        }
    }

    /// A key of another method is a mistake, and ignoring it would hide that the wrong method is
    /// set.
    fn refuse_keys_of_other_methods(&self) -> Result<(), BackendError> {
        use AuthMethod::{AppRole, Jwt, Kubernetes, Token};

        let keys: [(&str, bool, &[AuthMethod]); 8] = [
            ("token", self.token.is_some(), &[Token]),
            ("token_file", self.token_file.is_some(), &[Token]),
            ("role_id", self.role_id.is_some(), &[AppRole]),
            ("secret_id", self.secret_id.is_some(), &[AppRole]),
            ("secret_id_file", self.secret_id_file.is_some(), &[AppRole]),
            ("role", self.role.is_some(), &[Kubernetes, Jwt]),
            ("jwt_file", self.jwt_file.is_some(), &[Kubernetes, Jwt]),
            ("mount", self.mount.is_some(), &[AppRole, Kubernetes, Jwt]),
        ];

        for (key, is_set, methods) in keys {
            if is_set && !methods.contains(&self.method) {
                let method = self.method.as_str();
                let of: Vec<String> =
                    methods.iter().map(|method| format!("`{}`", method.as_str())).collect();
                let of = of.join(", ");
                return Err(error(format!(
                    "auth.{key}: belongs to the method {of}, and `auth.method` is `{method}`"
                )));
            }
        }

        Ok(())
    }

    /// Path of the auth method below `auth/`.
    pub(crate) fn mount(&self) -> &str {
        self.mount.as_deref().unwrap_or(self.method.as_str())
    }

    /// The file with the JWT.
    pub(crate) fn jwt_file(&self) -> PathBuf {
        self.jwt_file.clone().unwrap_or_else(|| KUBERNETES_TOKEN_FILE.into())
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A `SecretString` shows as redacted.
        f.debug_struct("AuthConfig")
            .field("method", &self.method)
            .field("token", &self.token)
            .field("token_file", &self.token_file)
            .field("role_id", &self.role_id)
            .field("secret_id", &self.secret_id)
            .field("secret_id_file", &self.secret_id_file)
            .field("role", &self.role)
            .field("jwt_file", &self.jwt_file)
            .field("mount", &self.mount)
            .finish()
    }
}

impl PartialEq for AuthConfig {
    fn eq(&self, other: &Self) -> bool {
        fn shown(secret: Option<&SecretString>) -> Option<&str> {
            secret.map(ExposeSecret::expose_secret)
        }
        self.method == other.method
            && shown(self.token.as_ref()) == shown(other.token.as_ref())
            && self.token_file == other.token_file
            && self.role_id == other.role_id
            && shown(self.secret_id.as_ref()) == shown(other.secret_id.as_ref())
            && self.secret_id_file == other.secret_id_file
            && self.role == other.role
            && self.jwt_file == other.jwt_file
            && self.mount == other.mount
    }
}

impl Eq for AuthConfig {}

/// Whether a text may be the value of an HTTP header as it is.
pub(crate) fn is_header_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn exactly_one(a: &str, has_a: bool, b: &str, has_b: bool) -> Result<(), BackendError> {
    match (has_a, has_b) {
        (true, true) => Err(error(format!("auth.{a}, auth.{b}: set one of them, not both"))),
        (false, false) => Err(error(format!("auth.{b}: is not set; set it, or `auth.{a}`"))),
        _ => Ok(()),
    }
}

fn invalid<T>(key: &str, value: &str, rule: &str) -> Result<T, BackendError> {
    Err(error(format!("{key}: must be {rule} (got `{value}`)")))
}

fn error(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Invalid, message)
}
