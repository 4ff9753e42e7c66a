//! One schema, two engines (SQLite, PostgreSQL); implements the Journal.
