//! The shape of every crate, and the one place that names backends.

use std::fs;
use std::path::Path;

use gofer_testbed::{members, repository, source_files};

/// The composition root: three `match`es, one per kind of backend.
const COMPOSITION_ROOT: &str = "gofer-api/src/compose.rs";
/// Where a backend's table in the configuration gets its type; it may name `…Config` of a backend,
/// and nothing else.
const CONFIGURATION: &str = "gofer-api/src/config/backends.rs";
/// Test binaries beside `it`: one that runs for long, from a seed of its own, and those whose
/// allocator counts for the process.
const MORE_TESTS: [&str; 4] = [
    "gofer-api/tests/memory",
    "gofer-engine/tests/sim",
    "gofer-engine/tests/memory",
    "gofer-store-s3/tests/memory",
];
const README_LINES: std::ops::RangeInclusive<usize> = 5..=100;

#[test]
fn every_crate_has_the_same_shape() {
    for package in members().values() {
        let dir = package.manifest_path.parent().expect("a manifest lies in a directory");
        let name = &package.name;
        let folder = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(folder == name || name == "gofer-testbed", "`{name}` lies in `{folder}`");
        assert_eq!(
            package.publish.as_deref(),
            Some(&[][..]),
            "`{name}` needs `publish.workspace = true`"
        );

        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "`{name}` needs `[lints] workspace = true`"
        );

        let readme = fs::read_to_string(dir.join("README.md")).unwrap_or_default();
        let lines = readme.lines().count();
        assert!(
            README_LINES.contains(&lines),
            "`{name}`: README.md has {lines} lines, not {README_LINES:?}"
        );

        let root = ["src/lib.rs", "src/main.rs"]
            .map(|root| fs::read_to_string(dir.join(root)).unwrap_or_default());
        let includes =
            root.iter().any(|text| text.contains(r#"#![doc = include_str!("../README.md")]"#));
        assert!(
            includes,
            "`{name}`: its crate docs are its README: #![doc = include_str!(\"../README.md\")]"
        );
        assert_one_test_binary(name, dir);
    }
}

/// Each file in `tests/` is linked on its own; one binary with modules is linked once.
fn assert_one_test_binary(name: &str, dir: &Path) {
    let Ok(entries) = fs::read_dir(dir.join("tests")) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let is_binary = path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").exists();
        let is_known = path.ends_with("it") || MORE_TESTS.iter().any(|known| path.ends_with(known));
        assert!(!is_binary || is_known, "`{name}`: move {} into tests/it/", path.display());
    }
}

#[test]
fn versions_are_in_the_root_manifest() {
    for package in members().values() {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        let dependencies = manifest.lines().skip_while(|line| !line.contains("dependencies]"));
        for line in dependencies {
            let (key, value) = line.split_once('=').unwrap_or(("", ""));
            let has_version = value.trim().starts_with('"') && !key.contains('.');
            let names_one =
                value.contains("version =") || value.contains("path =") || value.contains("git =");
            let in_section = !["name", "path", "required-features"].contains(&key.trim());
            let wrong = in_section && (has_version || names_one);
            assert!(
                !wrong,
                "`{}`: `{line}` belongs into the root's [workspace.dependencies]",
                package.name
            );
        }
    }
}

#[test]
fn only_the_composition_root_names_backends() {
    let mut wrong = Vec::new();
    for file in source_files().iter().filter(|file| file.extension() == "rs") {
        let is_source = file.path.contains("/src/") && file.path != COMPOSITION_ROOT;
        for (number, line) in file.text.lines().enumerate() {
            for kind in ["scheduler", "store", "secrets"] {
                let Some((_, product)) = line.split_once(&format!("gofer_{kind}_")) else {
                    continue;
                };

                let product: String =
                    product.chars().take_while(char::is_ascii_alphanumeric).collect();
                let own = format!("gofer-{kind}-{product}/");
                let is_setting = file.path == CONFIGURATION && line.trim_end().ends_with("Config;");

                if is_source && !is_setting && !file.path.starts_with(&own) {
                    wrong.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
                }
            }
        }
    }

    assert!(
        wrong.is_empty(),
        "only {COMPOSITION_ROOT} names concrete backends:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    for file in source_files().iter().filter(|file| file.text.starts_with("#!")) {
        let mode = fs::metadata(repository().join(&file.path)).unwrap().permissions().mode();
        let is_attribute = file.text.starts_with("#![");
        assert!(
            is_attribute || mode & 0o111 != 0,
            "{} has a `#!` line and is not executable",
            file.path
        );
    }
}

/// The targets need a compiler that builds nothing else here, so nobody would notice that one does
/// not compile any more.
#[test]
fn every_fuzz_target_runs_what_a_test_runs_too() {
    let files = source_files();
    let named = |folder: &str| -> Vec<String> {
        let inside =
            files.iter().filter_map(|file| file.path.strip_prefix(folder)?.strip_suffix(".rs"));
        inside.map(str::to_owned).collect()
    };

    let bodies = named("fuzz/bodies/");
    assert!(
        !bodies.is_empty() && bodies == named("fuzz/fuzz_targets/"),
        "one target for each body: {bodies:?}"
    );

    let manifest = fs::read_to_string(repository().join("fuzz/Cargo.toml")).unwrap();
    for body in bodies {
        let target =
            files.iter().find(|file| file.path == format!("fuzz/fuzz_targets/{body}.rs")).unwrap();
        let code: Vec<_> = target
            .text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("//!"))
            .collect();
        let path = format!("#[path = \"../bodies/{body}.rs\"]");
        let wrapper = [
            "#![no_main]",
            &path,
            "mod body;",
            "libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));",
        ];

        assert_eq!(code, wrapper, "{}", target.path);

        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{body}.rs\"")),
            "fuzz/Cargo.toml has no `{body}`"
        );

        let included = format!("fuzz/bodies/{body}.rs\"]");
        let tested = files
            .iter()
            .any(|file| file.path.ends_with("tests/it/fuzz.rs") && file.text.contains(&included));
        assert!(tested, "no tests/it/fuzz.rs runs fuzz/bodies/{body}.rs");
    }
}
