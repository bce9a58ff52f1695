//! Tables and JSON on standard output.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::ValueEnum;
use evenkeel::domain::limit::Period;
use jiff::Timestamp;
use serde_json::Value;

use super::client::OutputClosed;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Aligned columns
    Table,
    /// JSON
    Json,
}

/// Prints JSON over several lines.
pub(super) fn print_json(value: &Value) -> Result<(), OutputClosed> {
    writeln!(io::stdout(), "{value:#}").map_err(|_| OutputClosed)
}

/// Prints rows under a header; numbers are aligned to the right.
pub(super) fn print_table(header: &[&str], rows: &[Vec<String>]) -> Result<(), OutputClosed> {
    write!(io::stdout().lock(), "{}", table(header, rows)).map_err(|_| OutputClosed)
}

fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let width = |column: usize| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let columns: Vec<(usize, bool)> = header
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let number = |cell: &String| cell == "-" || cell.parse::<f64>().is_ok();
            (width(column).max(title.len()), !rows.is_empty() && cells(column).all(number))
        })
        .collect();
    let mut text = String::new();
    let header = header.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, (width, right)) in row.iter().zip(&columns) {
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.extend([before, cell, after, "  "]);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A time as people read it, in UTC.
pub(super) fn time(ms: u64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["alice".to_owned(), "7".to_owned()], vec!["b".to_owned(), "1000".to_owned()]];
        let text = table(&["CONSUMER", "BALANCE"], &rows);
        assert_eq!(text, "CONSUMER  BALANCE\nalice           7\nb            1000\n");
        assert_eq!(table(&["A", "B"], &[]), "A  B\n");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(length(0), "-");
        assert_eq!(length(93_784_000), "1d 2h");
        assert_eq!(length(1), "1s");
    }
}
