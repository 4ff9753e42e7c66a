//! The Vault secret store against a stateful fake, always, and against a real server where there is one.

mod settings;
