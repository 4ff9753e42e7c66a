//! The suites themselves.

use std::fs;
use std::path::Path;

/// A case that its macro does not name would never run.
#[test]
fn every_case_is_named_by_its_macro() {
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for suite in ["journal", "object_store", "scheduler", "secret_store"] {
        let macros = fs::read_to_string(suites.join(suite).join("mod.rs")).unwrap();
        let named: Vec<&str> = macros.split_whitespace().collect();
        let mut cases = 0;

        for file in fs::read_dir(suites.join(suite)).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            for line in text.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
                let case = line.split('(').next().unwrap();
                assert!(named.contains(&case), "`{case}` of {suite} is not in the suite's macro");
                cases += 1;
            }
        }

        assert!(cases > 10, "{cases} cases found in {suite}");
    }
}
