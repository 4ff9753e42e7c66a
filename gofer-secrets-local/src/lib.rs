//! Keeps secrets in the database, encrypted with a local key file.
