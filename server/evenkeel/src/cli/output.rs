//! What commands print: tables for people, JSON and CSV for programs.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::ValueEnum;
use evenkeel_domain::limit::Period;
use evenkeel_engine::ledger::text::csv_field;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Aligned columns; on a terminal, long texts are cut to its width
    Table,
    /// JSON, with the names of the HTTP API
    Json,
    /// CSV (RFC 4180), the first line with the names of the columns
    Csv,
}

/// Whoever reads the output has seen enough, as `head` has.
#[derive(Debug, thiserror::Error)]
#[error("the output is closed")]
pub(crate) struct OutputClosed;

/// One column of a listing.
pub(super) struct Column {
    /// Its name in JSON, and so in CSV; `pool.route` for a field of an object within. Empty: not in CSV.
    pub(super) field: &'static str,
    /// Its name in tables; empty: not in tables.
    pub(super) title: &'static str,
    /// Aligned to the right.
    pub(super) number: bool,
}

/// A column of texts.
pub(super) const fn text(field: &'static str, title: &'static str) -> Column {
    Column { field, title, number: false }
}

/// A column of numbers.
pub(super) const fn number(field: &'static str, title: &'static str) -> Column {
    Column { field, title, number: true }
}

/// What commands list: one line of a table, one record of CSV, one object of JSON.
pub(super) trait Item {
    /// Name of the list in JSON.
    const LIST: &'static str;
    /// Columns of tables and CSV.
    const COLUMNS: &'static [Column];

    /// As the HTTP API has it.
    fn json(&self) -> Value;

    /// A cell for each column that has a title.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    /// Prints a list.
    pub(super) fn list<T: Item>(self, items: &[T]) -> anyhow::Result<()> {
        let whole = || json!({ T::LIST: items.iter().map(Item::json).collect::<Vec<_>>() });
        self.print(items, whole)
    }

    /// Prints one by itself.
    pub(super) fn one<T: Item>(self, item: &T) -> anyhow::Result<()> {
        self.print(std::slice::from_ref(item), || item.json())
    }

    /// Prints items, or in JSON what they are part of.
    pub(super) fn print<T: Item>(self, items: &[T], whole: impl FnOnce() -> Value) -> anyhow::Result<()> {
        match self {
            Self::Json => put_json(&whole())?,
            Self::Csv => put(&csv(items))?,
            Self::Table => {
                let rows: Vec<_> = items.iter().map(Item::cells).collect();
                put(&table::lines(T::COLUMNS, &rows, terminal_width()))?;
            }
        }
        Ok(())
    }
}

/// Prints text as it is.
pub(super) fn put(text: &str) -> Result<(), OutputClosed> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| OutputClosed)
}

/// Prints JSON over several lines.
pub(super) fn put_json(value: &Value) -> Result<(), OutputClosed> {
    put(&format!("{value:#}\n"))
}

/// Columns of the terminal the output goes to; none for files and pipes, which get everything.
pub(super) fn terminal_width() -> Option<usize> {
    let size = || ratatui::crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns));
    io::stdout().is_terminal().then(size).flatten().filter(|columns| *columns > 0)
}

/// A header and records of CSV.
pub(super) fn csv<T: Item>(items: &[T]) -> String {
    let fields = || T::COLUMNS.iter().map(|column| column.field).filter(|field| !field.is_empty());
    // A field within another is named by its own name alone.
    let names = fields().map(|field| field.rsplit('.').next().unwrap_or(field).to_owned());
    let mut out = names.collect::<Vec<_>>().join(",") + "\r\n";
    for item in items {
        let json = item.json();
        let record =
            fields().map(|field| csv_value(field.split('.').fold(&json, |value, name| &value[name])));
        out.push_str(&record.collect::<Vec<_>>().join(","));
        out.push_str("\r\n");
    }
    out
}

fn csv_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => csv_field(text).into_owned(),
        Value::Array(values) => {
            let texts =
                values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            csv_field(&texts.collect::<Vec<_>>().join(" ")).into_owned()
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Object(_) => csv_field(&value.to_string()).into_owned(),
    }
}

/// A time as people read it, in UTC; `-` for none.
pub(super) fn time(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let at = i64::try_from(ms / 1000).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map_or_else(|| ms.to_string(), |at| at.to_string())
}

/// A length of time in its two largest units; `-` for none.
pub(super) fn length(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let length = Duration::from_secs(ms.div_ceil(1000));
    let text = Period::Length(length).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A text, or `-` for none.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// A number, or `-` for none.
pub(super) fn count_or_dash(n: u64) -> String {
    if n == 0 { "-".to_owned() } else { n.to_string() }
}

/// `yes` or `no`.
pub(super) fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// `pool_full` for `REASON_POOL_FULL`: an enum of the API as the HTTP API has it.
pub(super) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(&'static str, i64);

    impl Item for Thing {
        const LIST: &'static str = "things";
        const COLUMNS: &'static [Column] = &[
            text("in.name", "NAME"),
            number("size", "SIZE"),
            text("tags", ""),
            text("", "MARK"),
            number("none", ""),
        ];

        fn json(&self) -> Value {
            json!({"in": {"name": self.0}, "size": self.1, "tags": ["a", "b"], "none": null})
        }

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string(), "!".to_owned()]
        }
    }

    #[test]
    fn csv_has_the_names_of_json_and_no_formulas() {
        let text = csv(&[Thing("a,\"b\"", 7), Thing("=1", -1)]);
        assert_eq!(text, "name,size,tags,none\r\n\"a,\"\"b\"\"\",7,a b,\r\n\"'=1\",-1,a b,\r\n");
        assert_eq!(csv::<Thing>(&[]), "name,size,tags,none\r\n");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!((time(0).as_str(), length(0).as_str()), ("-", "-"));
        assert_eq!(length(93_784_000), "1d 2h");
        assert_eq!(length(1), "1s");
        assert_eq!(word("REASON_POOL_FULL", "REASON_"), "pool_full");
    }
}
