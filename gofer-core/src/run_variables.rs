//! Variables that come from outside with a run: which of them a pipeline takes, and what their
//! values mean.
//!
//! Whoever starts a run need not be whoever wrote the pipeline; the value may be a branch's name
//! that a stranger chose. So it is plain text unless the pipeline says otherwise, and a name that
//! decides what a program loads is taken only where the pipeline lists it.

use std::collections::{BTreeMap, HashSet};

use crate::pipeline::{PipelineSpec, RunVariable};
use crate::validate::{self, MAX_VARIABLES, Violation};

/// How many of the allowed names an error shows.
const NAMES_SHOWN: usize = 20;

/// Beginnings of names that decide what the dynamic linker, a package manager, or git takes for its
/// own.
const GUARDED_PREFIXES: &[&str] =
    &["DYLD_", "GIT_CONFIG", "GIT_SSH", "LD_", "NPM_CONFIG_", "PIP_", "XDG_"];

/// Names that decide which program is found, what it loads before its own code, or whom it trusts.
/// In upper case; a name is compared without regard to case, since some programs do so as well.
const GUARDED_NAMES: &[&str] = &[
    // Shells, and where everything is looked for.
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "ENV",
    "HOME",
    "IFS",
    "PATH",
    "PROMPT_COMMAND",
    "PS4",
    "SHELL",
    "SHELLOPTS",
    "ZDOTDIR",
    // The C library.
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "LOCPATH",
    "NLSPATH",
    "RESOLV_HOST_CONF",
    // Interpreters and virtual machines.
    "CLASSPATH",
    "DOTNET_STARTUP_HOOKS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LUA_CPATH",
    "LUA_INIT",
    "LUA_PATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PYTHONBREAKPOINT",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONWARNINGS",
    "RUBYLIB",
    "RUBYOPT",
    "_JAVA_OPTIONS",
    // Build tools.
    "BUNDLE_GEMFILE",
    "CARGO_HOME",
    "GEM_HOME",
    "GEM_PATH",
    "GRADLE_OPTS",
    "MAKEFILES",
    "MAKEFLAGS",
    "MAVEN_OPTS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    // Programs that other programs start.
    "BROWSER",
    "EDITOR",
    "GIT_ASKPASS",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SEQUENCE_EDITOR",
    "GIT_TEMPLATE_DIR",
    "LESSOPEN",
    "PAGER",
    "SSH_ASKPASS",
    "VISUAL",
    // Whom a program asks, and whom it trusts.
    "ALL_PROXY",
    "AWS_CONFIG_FILE",
    "CURL_CA_BUNDLE",
    "CURL_HOME",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "KUBECONFIG",
    "NODE_EXTRA_CA_CERTS",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "NO_PROXY",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "WGETRC",
];

/// Whether a run may set this variable only where its pipeline lists it.
#[must_use]
pub fn is_guarded(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    GUARDED_NAMES.contains(&name.as_str())
        || GUARDED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Every rule that the variables of a run break against the pipeline's list; see
/// [`validate::variables`] for the rest.
#[must_use]
pub fn check(spec: &PipelineSpec, variables: &BTreeMap<String, String>) -> Vec<Violation> {
    let listed: HashSet<&str> =
        spec.run_variables.iter().map(|variable| variable.name.as_str()).collect();
    let mut found = Vec::new();

    for name in variables.keys().filter(|name| !listed.contains(name.as_str())) {
        let rule = if !listed.is_empty() {
            format!("a run of this pipeline may set {}", names(&spec.run_variables))
        } else if is_guarded(name) {
            "decides what programs load or whom they trust: a run may set it only where the \
             pipeline lists it in `run_variables`"
                .to_owned()
        } else {
            continue;
        };
        found.push(Violation::new("variables", name, rule));
    }

    for name in templates(spec) {
        if let Some(value) = variables.get(name) {
            validate::references(&format!("variables[{name}]"), value, &mut found);
        }
    }

    found
}

fn names(variables: &[RunVariable]) -> String {
    let shown: Vec<_> =
        variables.iter().take(NAMES_SHOWN).map(|variable| format!("`{}`", variable.name)).collect();
    let more = variables.len().saturating_sub(NAMES_SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// The variables for which a run's value is a template.
pub fn templates(spec: &PipelineSpec) -> impl Iterator<Item = &str> {
    spec.run_variables
        .iter()
        .filter(|variable| variable.template)
        .map(|variable| variable.name.as_str())
}

/// Every rule that the list itself breaks.
pub(crate) fn check_list(list: &[RunVariable], found: &mut Vec<Violation>) {
    if list.len() > MAX_VARIABLES {
        let rule = format!("at most {MAX_VARIABLES} variables");
        found.push(Violation::new("run_variables", list.len().to_string(), rule));
        return;
    }
    let mut names = HashSet::new();
    for (at, variable) in list.iter().enumerate() {
        let field = format!("run_variables[{at}].name");
        validate::variable_name(&field, &variable.name, found);
        if !names.insert(&variable.name) {
            found.push(Violation::new(field, &variable.name, "listed once"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_choose_code_are_guarded_in_any_case() {
        for name in [
            "LD_PRELOAD",
            "PATH",
            "BASH_ENV",
            "HOME",
            "https_proxy",
            "npm_config_registry",
            "GIT_SSH_COMMAND",
        ] {
            assert!(is_guarded(name), "{name}");
        }
        for name in [
            "BRANCH",
            "GIT_BRANCH",
            "GIT_COMMIT",
            "VERSION",
            "PYTHON_VERSION",
            "LDAP_HOST",
            "ENVIRONMENT",
        ] {
            assert!(!is_guarded(name), "{name}");
        }
    }
}
