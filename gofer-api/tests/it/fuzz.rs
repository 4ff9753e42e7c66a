//! The bodies of the fuzz targets on random input; `fuzz/` runs them with a fuzzer.

use proptest::prelude::*;

#[path = "../../../fuzz/bodies/config.rs"]
mod config;

/// Lines of a configuration, put together as it comes.
const LINES: &str = r#"(\[server\]|\[limits\]|\[scheduler.local\]|listen = "127.0.0.1:0"|listen = "0.0.0.0:1"|auth = "on"|url_ttl = "9d"|url_ttl = 1|call_timeout = "\PC{0,5}"|pipeline_objects = -?[0-9]{1,20}|\PC{0,20}|\n){0,20}"#;

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_refused(text in LINES, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        config::run(text.as_bytes());
        config::run(&bytes);
    }
}
