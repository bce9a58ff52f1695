//! The arguments that commands for lists share, and the loop that reads the pages of a list.

use clap::Args;
use serde::Serialize;

use super::output::{Item, Output, put};

/// Maximum number of items on a page.
pub(super) const PAGE_MAX: u32 = 1000;
/// Number of rows that tables show by default.
const TABLE_ROWS: usize = 50;

/// How many rows of a list to show.
#[derive(Args)]
pub(super) struct Rows {
    /// Maximum number of rows to show; 0 shows all. By default, tables show 50 rows; JSON and CSV show all
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
}

/// Which rows of a list to show, and how many.
#[derive(Args)]
pub(super) struct Search {
    /// Show only rows that contain this text
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(super) search: String,
    #[command(flatten)]
    pub(super) rows: Rows,
}

impl Rows {
    /// Returns the maximum number of rows; 0 means all.
    pub(super) fn limit(&self, output: Output) -> usize {
        self.rows.unwrap_or(if output == Output::Table { TABLE_ROWS } else { 0 })
    }
}

/// Prints a list.
pub(super) fn print<T: Item>(
    output: Output,
    items: &[T],
    next_page_token: &str,
    message: &impl Serialize,
) -> anyhow::Result<()> {
    output.list(items, message)?;
    note(output, next_page_token)
}

/// Says below a table that the list has more rows.
pub(super) fn note(output: Output, next_page_token: &str) -> anyhow::Result<()> {
    if output == Output::Table && !next_page_token.is_empty() {
        put("(more rows: see --rows)\n")?;
    }
    Ok(())
}

/// Returns the size of the next page: the rows still missing up to `limit`, but at most `max`.
pub(super) fn page_size(limit: usize, have: usize, max: u32) -> u32 {
    match limit {
        0 => max,
        limit => u32::try_from(limit - have.min(limit)).unwrap_or(max).clamp(1, max),
    }
}

/// Reads the pages of a list until it has `$limit` items; 0 means all. Returns the last response with the items of all
/// pages.
macro_rules! pages {
    ($client:expr, $call:ident, $request:expr, $list:ident, $limit:expr, $what:expr) => {{
        let (mut client, mut request, limit) = ($client, $request, $limit);
        let mut items = Vec::new();
        loop {
            request.page_size = crate::cli::list::page_size(limit, items.len(), crate::cli::list::PAGE_MAX);
            let page = client.$call(request.clone()).await;
            let mut page = page.map_err(crate::cli::exit::failed($what))?.into_inner();
            items.append(&mut page.$list);
            request.page_token.clone_from(&page.next_page_token);
            if request.page_token.is_empty() || (limit > 0 && items.len() >= limit) {
                page.$list = items;
                break page;
            }
        }
    }};
}
pub(super) use pages;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_the_rows_still_missing() {
        assert_eq!([page_size(0, 5, 10), page_size(7, 5, 10), page_size(99, 0, 10)], [10, 2, 10]);
    }
}
