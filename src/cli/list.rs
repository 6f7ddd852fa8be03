//! Lists come in pages.

use capstan_core::view::Page;

use super::context::note;

/// Which page of a list.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PageArgs {
    /// How many items at most, 1 to 500.
    #[arg(long, value_name = "COUNT", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Goes on where a list before ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

impl PageArgs {
    /// As the API takes it.
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.cursor.clone().map(|cursor| ("cursor", cursor)));
        query
    }
}

/// The items of a page; whoever looks on is told if there are more.
pub(crate) fn items<T>(page: Page<T>) -> Vec<T> {
    if let Some(cursor) = page.next_cursor {
        note(&format!("There are more: add --cursor {cursor}"));
    }
    page.items
}
