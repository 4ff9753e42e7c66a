//! Any text is a configuration that obeys its rules, or an error that says something.

use gofer_api::config::ServerConfig;

pub(crate) fn run(data: &[u8]) {
    match ServerConfig::from_toml(&String::from_utf8_lossy(data)) {
        Ok(config) => config.validate().expect("what was read is valid"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
