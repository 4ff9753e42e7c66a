//! The Vault secret store against a stateful fake, always, and against a real server where there is
//! one.

mod calls;
mod check;
mod conformance;
mod fake;
mod login;
mod real;
mod settings;
mod support;
mod tls;
mod values;
