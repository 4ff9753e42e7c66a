//! `Db`'s methods, one file per resource: they take a call apart and dispatch it to the engine's
//! copy of the query.

mod event;
mod local_secret;
mod namespace;
mod object;
mod pipeline;
mod quota;
mod run;
mod secret;
mod token;
