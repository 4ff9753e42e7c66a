//! Lists that come in pages.

use clap::Args;
use tonic::Status;

use crate::errors::Failure;
use crate::output::Out;

/// The most entries the contract gives in one page.
const MAX_PAGE: u32 = 500;

/// How much of a list is wanted.
#[derive(Debug, Clone, Args)]
pub(crate) struct PageArgs {
    /// Most entries to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Where to go on: the `nextPageToken` of an earlier list
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
}

/// Entries, and where the next ones are; empty = there are none.
pub(crate) type Page<T> = (Vec<T>, String);

impl PageArgs {
    /// The whole list.
    pub(crate) fn everything() -> Self {
        Self { limit: u32::MAX, page_token: String::new() }
    }

    /// Fetches pages with `fetch(page_size, page_token)` until there are enough entries.
    pub(crate) async fn collect<T>(
        &self,
        mut fetch: impl AsyncFnMut(u32, String) -> Result<Page<T>, Status>,
    ) -> Result<Page<T>, Failure> {
        let mut entries = Vec::new();
        let mut token = self.page_token.clone();
        loop {
            let missing =
                self.limit - u32::try_from(entries.len()).unwrap_or(self.limit).min(self.limit);
            if missing == 0 {
                return Ok((entries, token));
            }

            let (page, next) = fetch(missing.min(MAX_PAGE), token).await?;
            entries.extend(page);
            token = next;

            if token.is_empty() {
                return Ok((entries, token));
            }
        }
    }
}

/// Tells a person that a list goes on.
pub(crate) fn note_more(out: &Out, next_page_token: &str) {
    if !next_page_token.is_empty() && !out.is_json() {
        out.note(&format!(
            "there are more; raise `--limit`, or go on with `--page-token {next_page_token}`"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_joined_up_to_the_limit() {
        let args = PageArgs { limit: 1_100, page_token: String::new() };
        let mut sizes = Vec::new();
        let (entries, next) = args
            .collect(async |size, token| {
                sizes.push((size, token));
                Ok((vec![(); size as usize], "more".to_owned()))
            })
            .await
            .expect("a list");
        assert_eq!((entries.len(), next.as_str()), (1_100, "more"));
        assert_eq!(sizes.iter().map(|(size, _)| *size).collect::<Vec<_>>(), [500, 500, 100]);
    }
}
