//! Output of commands: tables for people, JSON and CSV for programs.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::ValueEnum;
use evenkeel_api::csv::csv_field;
use evenkeel_domain::limit::Period;
use evenkeel_proto::json::Named;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::table;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Aligned columns; on a terminal, long texts are cut so that lines fit
    Table,
    /// JSON, as the HTTP API returns it
    Json,
    /// CSV (RFC 4180); the first line names the columns
    Csv,
}

/// Error: the reader closed the output before its end, as `head` does.
#[derive(Debug, thiserror::Error)]
#[error("the output is closed")]
pub(crate) struct OutputClosed;

/// One column of a list.
pub(super) struct Column<T> {
    /// Name of the field in JSON and CSV, such as `pool.route` for a nested field. If empty, CSV omits the column.
    field: &'static str,
    /// Heading in tables. If empty, tables omit the column.
    title: &'static str,
    /// Aligns the column to the right.
    number: bool,
    /// Whether tables omit the column if every cell is `-`.
    optional: bool,
    /// Formats the cell of a table.
    cell: fn(&T) -> String,
}

/// Returns a column of text.
pub(super) const fn text<T>(field: &'static str, title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { field, title, number: false, optional: false, cell }
}

/// Returns a column of numbers.
pub(super) const fn number<T>(field: &'static str, title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { field, title, number: true, optional: false, cell }
}

/// Returns a column that appears only in CSV.
pub(super) const fn csv_only<T>(field: &'static str) -> Column<T> {
    Column { field, title: "", number: false, optional: false, cell: |_| String::new() }
}

impl<T> Column<T> {
    /// Makes tables omit the column if no item has a value.
    pub(super) const fn if_any(self) -> Self {
        Self { optional: true, ..self }
    }

    fn is_shown(&self, items: &[T]) -> bool {
        !self.title.is_empty() && (!self.optional || items.iter().any(|item| (self.cell)(item) != "-"))
    }
}

/// An item of a list: one line of a table, one record of CSV, one object of JSON.
pub(super) trait Item: Serialize + Sized + 'static {
    const COLUMNS: &'static [Column<Self>];
}

impl Output {
    /// Prints one item.
    pub(super) fn one<T: Item>(self, item: &T) -> anyhow::Result<()> {
        self.list(std::slice::from_ref(item), item)
    }

    /// Prints items. As JSON, prints the whole message that contains the items.
    pub(super) fn list<T: Item>(self, items: &[T], message: &impl Serialize) -> anyhow::Result<()> {
        match self {
            Self::Json => put_json(message)?,
            Self::Csv => put(&csv(items)?)?,
            Self::Table => {
                let columns = || T::COLUMNS.iter().filter(|column| column.is_shown(items));
                let heads: Vec<_> = columns().map(|column| (column.title, column.number)).collect();
                let rows = items.iter().map(|item| columns().map(|column| (column.cell)(item)).collect());
                put(&table::lines(&heads, &rows.collect::<Vec<_>>(), terminal_width()))?;
            }
        }
        Ok(())
    }
}

/// Prints text unchanged.
pub(super) fn put(text: &str) -> Result<(), OutputClosed> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| OutputClosed)
}

/// Prints a message as indented JSON.
pub(super) fn put_json(message: &impl Serialize) -> anyhow::Result<()> {
    Ok(put(&format!("{}\n", serde_json::to_string_pretty(message)?))?)
}

/// Returns the width of the terminal in columns. Returns `None` for files and pipes, in which texts are not cut.
pub(super) fn terminal_width() -> Option<usize> {
    let size = || ratatui::crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns));
    io::stdout().is_terminal().then(size).flatten().filter(|columns| *columns > 0)
}

/// Returns a CSV header and one record for each item.
pub(super) fn csv<T: Item>(items: &[T]) -> anyhow::Result<String> {
    let fields = || T::COLUMNS.iter().map(|column| column.field).filter(|field| !field.is_empty());
    // The header names a nested field by its last part.
    let names = fields().map(|field| field.rsplit('.').next().unwrap_or(field).to_owned());
    let mut out = names.collect::<Vec<_>>().join(",") + "\r\n";
    for item in items {
        let json = serde_json::to_value(item)?;
        let record =
            fields().map(|field| csv_value(field.split('.').fold(&json, |value, name| &value[name])));
        out.push_str(&record.collect::<Vec<_>>().join(","));
        out.push_str("\r\n");
    }
    Ok(out)
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

/// Formats a time in UTC; `-` if it is 0.
pub(super) fn time(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let at = i64::try_from(ms / 1000).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map_or_else(|| ms.to_string(), |at| at.to_string())
}

/// Formats a duration in its two largest units; `-` if it is 0.
pub(super) fn duration(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let duration = Duration::from_secs(ms.div_ceil(1000));
    let text = Period::Length(duration).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Returns the text, or `-` if it is empty.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// Formats a number; `-` if it is 0.
pub(super) fn count_or_dash(n: u64) -> String {
    if n == 0 { "-".to_owned() } else { n.to_string() }
}

/// Formats a part of a whole, from 0 to 1.
pub(super) fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

/// Returns `yes` or `no`.
pub(super) fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// Returns the short name of an enum value, or `-` if it has none.
pub(super) fn word<E: Named>(number: i32) -> String {
    E::short_name(number).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use evenkeel_proto::v1::Reason;

    use super::*;

    #[derive(Serialize)]
    struct Inner {
        name: &'static str,
    }

    #[derive(Serialize)]
    struct Thing {
        r#in: Inner,
        size: i64,
        tags: [&'static str; 2],
        none: Option<u64>,
    }

    impl Item for Thing {
        const COLUMNS: &'static [Column<Self>] = &[
            text("in.name", "NAME", |t| t.r#in.name.to_owned()),
            number("size", "SIZE", |t| t.size.to_string()),
            csv_only("tags"),
            text("", "MARK", |_| "!".to_owned()),
            csv_only("none"),
        ];
    }

    fn thing(name: &'static str, size: i64) -> Thing {
        Thing { r#in: Inner { name }, size, tags: ["a", "b"], none: None }
    }

    #[test]
    fn csv_has_the_names_of_json_and_no_formulas() {
        let text = csv(&[thing("a,\"b\"", 7), thing("=1", -1)]).unwrap();
        assert_eq!(text, "name,size,tags,none\r\n\"a,\"\"b\"\"\",7,a b,\r\n\"'=1\",-1,a b,\r\n");
        assert_eq!(csv::<Thing>(&[]).unwrap(), "name,size,tags,none\r\n");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!((time(0).as_str(), duration(0).as_str()), ("-", "-"));
        assert_eq!(duration(93_784_000), "1d 2h");
        assert_eq!(duration(1), "1s");
        assert_eq!((word::<Reason>(1), word::<Reason>(0)), ("pool_full".to_owned(), "-".to_owned()));
    }
}
