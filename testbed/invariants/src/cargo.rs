//! Cargo's knowledge of the workspace. Both questions are answered offline, from the manifests and
//! the lock file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use crate::files::repository;

/// A member of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// The name in its manifest.
    pub name: String,
    /// Its `Cargo.toml`.
    pub manifest_path: PathBuf,
    /// The declared dependencies of every kind and feature.
    pub dependencies: Vec<Dependency>,
    /// Registries it may be published to; empty for `publish = false`.
    pub publish: Option<Vec<String>>,
}

/// A dependency as declared.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The crate's name.
    pub name: String,
    /// `None` for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
}

/// The members, by name.
///
/// # Panics
/// When Cargo cannot read the workspace.
#[must_use]
pub fn members() -> BTreeMap<String, Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let text = cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let metadata: Metadata = serde_json::from_str(&text).expect("cargo metadata prints JSON");
    metadata.packages.into_iter().map(|package| (package.name.clone(), package)).collect()
}

/// Every crate that building `package` compiles, tests left out, with the features it is compiled
/// with. `flags` select the package's own features, as in `--all-features`.
///
/// # Panics
/// When Cargo cannot resolve it.
#[must_use]
pub fn tree(package: &str, flags: &[&str]) -> BTreeMap<String, Vec<String>> {
    let fixed =
        ["tree", "--package", package, "--edges=normal,build", "--prefix=none", "--format={p}|{f}"];
    let text = cargo(&[&fixed[..], flags].concat());
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let (crate_id, features) = line.split_once('|').unwrap_or((line, ""));
        let name = crate_id.split(' ').next().unwrap_or_default().to_owned();
        let features =
            features.trim_end_matches(" (*)").split(',').filter(|feature| !feature.is_empty());
        found.entry(name).or_default().extend(features.map(str::to_owned));
    }
    found
}

fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(program).args(arguments).arg("--offline").current_dir(repository()).output();
    let output = output.expect("cargo can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} failed: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}
