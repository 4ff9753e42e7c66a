//! Rows as the tables have them, and the way from and to the domain. Compiled once, used by both
//! engines' queries.

pub(crate) mod entity;
pub(crate) mod event;
pub(crate) mod run;
pub(crate) mod standing;
pub(crate) mod task;
pub(crate) mod upload;

use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::DbError;
use crate::types::MAX_PAGE;

/// A number on its way into a BIGINT column. Beyond the column's range is no number that Gofer
/// counts to; as an argument of a search it then finds nothing.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number on its way out.
pub(crate) fn unsigned(number: i64) -> Result<u64, DbError> {
    u64::try_from(number)
        .map_err(|_| DbError::corrupt(format!("the database holds `{number}` where it counts")))
}

pub(crate) fn small(number: i64) -> Result<u32, DbError> {
    u32::try_from(number)
        .map_err(|_| DbError::corrupt(format!("the database holds `{number}` where it counts")))
}

/// A number that is counted in memory; what does not fit there is as good as without end.
pub(crate) fn counted(number: i64) -> usize {
    usize::try_from(number.max(0)).unwrap_or(usize::MAX)
}

/// An identifier on its way out.
pub(crate) fn id<T: FromStr<Err: std::error::Error>>(text: &str) -> Result<T, DbError> {
    text.parse().map_err(|error| {
        DbError::corrupt(format!("the database holds an impossible name: {error}"))
    })
}

/// One of a list of stable names on its way out.
pub(crate) fn name<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, DbError> {
    parse(text).ok_or_else(|| {
        DbError::corrupt(format!("the database holds `{text}`, which this version does not know"))
    })
}

/// JSON text on its way out.
pub(crate) fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::Corrupt {
        message: "the database holds a text that cannot be read".to_owned(),
        source: Some(error.into()),
    })
}

pub(crate) fn parsed_option<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, DbError> {
    text.map(parsed).transpose()
}

/// JSON text on its way in.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, DbError> {
    serde_json::to_string(value)
        .map_err(|error| DbError::internal("a value cannot be written as text", error))
}

/// JSON text of something there may be none of.
pub(crate) fn json_option<T: Serialize>(value: Option<&T>) -> Result<Option<String>, DbError> {
    value.map(json).transpose()
}

/// How many rows to ask for: one more than wanted says whether there are more.
pub(crate) fn page_rows(limit: usize) -> i64 {
    signed(limit.clamp(1, MAX_PAGE) as u64 + 1)
}

/// Cuts what [`page_rows`] asked for to what was wanted, and names the next page after the last of
/// it.
pub(crate) fn page<R, T>(
    mut rows: Vec<R>,
    limit: usize,
    cursor: impl FnOnce(&R) -> String,
    convert: impl FnMut(R) -> Result<T, DbError>,
) -> Result<crate::types::Page<T>, DbError> {
    let wanted = limit.clamp(1, MAX_PAGE);
    let more = rows.len() > wanted;
    rows.truncate(wanted);
    let next = if more { rows.last().map(cursor) } else { None };
    Ok(crate::types::Page { items: rows.into_iter().map(convert).collect::<Result<_, _>>()?, next })
}

/// A cursor that is a number.
pub(crate) fn number_cursor(after: Option<&str>) -> Result<Option<i64>, DbError> {
    after.map(|text| text.parse().map_err(|_| bad_cursor(text))).transpose()
}

pub(crate) fn bad_cursor(text: &str) -> DbError {
    DbError::Invalid {
        field: "after",
        value: text.chars().take(100).collect(),
        rule: "must be what the page before gave as the next",
    }
}

/// The end of the range of texts that start with `prefix`: no key of ours has a character beyond
/// ASCII.
pub(crate) fn prefix_end(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}
