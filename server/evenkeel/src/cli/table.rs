//! Tables with aligned columns, fitted to the terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Minimum width to which a text column is cut.
const TEXT_WIDTH_MIN: usize = 8;
const GAP: &str = "  ";

/// The heading of a column, and whether the column contains numbers.
pub(super) type Head = (&'static str, bool);

/// Formats rows under headings. If `width` is set, cuts texts so that lines fit that width as far as possible.
pub(super) fn lines(columns: &[Head], rows: &[Vec<String>], width: Option<usize>) -> String {
    let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let clean = |row: &Vec<String>| row.iter().map(|cell| clean(cell)).collect();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(rows.iter().map(clean)).collect();
    let widest = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.width()).max();
    let mut widths: Vec<usize> = (0..columns.len()).map(|i| widest(i).unwrap_or(0)).collect();
    if let Some(width) = width {
        fit(columns, &mut widths, width);
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, (_, number)), width) in row.iter().zip(columns).zip(&widths) {
            let cell = cut(cell, *width);
            let pad = " ".repeat(width - cell.width());
            let (before, after) = if *number { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.extend([before, cell.as_str(), after, GAP]);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Shrinks the widest text columns until the line fits. Numbers are never cut.
fn fit(columns: &[Head], widths: &mut [usize], width: usize) {
    let gaps = GAP.len() * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let texts = (0..widths.len()).filter(|i| !columns[*i].1 && widths[*i] > TEXT_WIDTH_MIN);
        let Some(widest) = texts.max_by_key(|i| widths[*i]) else { return };
        widths[widest] -= 1;
    }
}

/// Cuts a text to the width, and marks the cut with `…`.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used >= width {
            break;
        }
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// Replaces control characters, because names and notes are untrusted: such a character could control the terminal or
/// break the line.
fn clean(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Head; 2] = [("CONSUMER", false), ("BALANCE", true)];

    fn row(name: &str, n: &str) -> Vec<String> {
        vec![name.to_owned(), n.to_owned()]
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [row("alice", "7"), row("b", "1000"), row("日本", "-")];
        let text = lines(&COLUMNS, &rows, None);
        assert_eq!(text, "CONSUMER  BALANCE\nalice           7\nb            1000\n日本            -\n");
        assert_eq!(lines(&COLUMNS, &[], None), "CONSUMER  BALANCE\n");
    }

    #[test]
    fn texts_are_cut_to_the_terminal_and_numbers_are_not() {
        let rows = [row("a-very-long-name", "123456789012"), row("short", "1")];
        let text = lines(&COLUMNS, &rows, Some(24));
        assert_eq!(text, "CONSUMER         BALANCE\na-very-lo…  123456789012\nshort                  1\n");
        assert!(lines(&COLUMNS, &rows, Some(1)).contains("a-very-…  123456789012"));
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert!(lines(&COLUMNS, &[row("\u{1b}[2Jx\ny", "1")], None).contains("\u{fffd}[2Jx\u{fffd}y"));
        assert_eq!((cut("日本", 3), cut("ab", 0)), ("日…".to_owned(), String::new()));
    }
}
