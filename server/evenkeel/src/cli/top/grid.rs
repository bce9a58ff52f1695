//! Draws rows under a header. If the terminal is narrow, leaves out the least important columns first.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};
use unicode_width::UnicodeWidthStr as _;

use super::super::table::cut;

const GAP: usize = 2;
/// Minimum width of the name column, as long as another column can be left out.
const NAME_WIDTH_MIN: usize = 14;
const BAR_WIDTH_MAX: usize = 40;

/// How to draw on this terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Whether to use colours: NO_COLOR is not set.
    pub(super) colour: bool,
    /// Whether to use characters beyond ASCII: the locale uses UTF-8.
    pub(super) unicode: bool,
}

impl Look {
    /// Reads the environment: NO_COLOR, and whether the locale uses UTF-8.
    pub(super) fn of_environment(get: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let locale = locale.to_lowercase();
        Self {
            colour: set("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// Returns a style with this colour, or a plain style if colours are off.
    pub(super) fn in_colour(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}

/// A column. The first column takes the width that the other columns leave free.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: usize,
    /// If the screen is narrow, columns with the smallest weight are left out first.
    pub(super) weight: u8,
}

pub(super) enum Cell {
    Text(String),
    Number(String),
    /// A fraction from 0 to 1, and whether it is a fraction of a capacity. If so, a nearly full bar is red.
    Bar(f64, bool),
}

pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    pub(super) selected: bool,
    /// Whether to draw the row dim: true if the endpoint gets no new requests.
    pub(super) dim: bool,
}

/// Draws the rows that fit into the area.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, look: Look, columns: &[Column], rows: &[Row]) {
    if area.height == 0 {
        return;
    }
    let name = rows.iter().filter_map(|row| row.cells.first()).map(|cell| match cell {
        Cell::Text(text) | Cell::Number(text) => text.width(),
        Cell::Bar(..) => 0,
    });
    let widths = fit(columns, name.max().unwrap_or(0), usize::from(area.width).saturating_sub(1));
    let numbers =
        rows.first().map(|row| row.cells.iter().map(|cell| matches!(cell, Cell::Number(_))).collect());
    let numbers: Vec<bool> = numbers.unwrap_or_else(|| vec![false; columns.len()]);
    let titles = columns.iter().zip(&numbers).map(|(column, number)| {
        let title = column.title.to_owned();
        if *number { Cell::Number(title) } else { Cell::Text(title) }
    });
    let header = Row { cells: titles.collect(), selected: false, dim: false };
    put_row(buffer, line(area, 0), look, &widths, &header);
    buffer.set_style(line(area, 0), Style::new().add_modifier(Modifier::BOLD));
    for (i, row) in rows.iter().enumerate().take(usize::from(area.height) - 1) {
        let at = line(area, i as u16 + 1);
        put_row(buffer, at, look, &widths, row);
        if row.dim {
            buffer.set_style(at, Style::new().add_modifier(Modifier::DIM));
        }
        if row.selected {
            buffer.set_style(at, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// Returns line `i` of an area.
pub(super) fn line(area: Rect, i: u16) -> Rect {
    Rect { y: area.y + i, height: 1, ..area }
}

/// Returns the width of each column; 0 for a column that is left out.
fn fit(columns: &[Column], name: usize, width: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.width).collect();
    let Some(first) = widths.first_mut() else { return widths };
    let name = name.max(columns[0].width);
    *first = name.min(NAME_WIDTH_MIN);
    let needed = |widths: &[usize]| widths.iter().filter(|w| **w > 0).map(|w| w + GAP).sum::<usize>();
    while needed(&widths) > width + GAP {
        let there = (1..columns.len()).filter(|i| widths[*i] > 0);
        let Some(least) = there.min_by_key(|i| columns[*i].weight) else { break };
        widths[least] = 0;
    }
    let mut spare = (width + GAP).saturating_sub(needed(&widths));
    let grown = spare.min(name.saturating_sub(widths[0]));
    widths[0] += grown;
    spare -= grown;
    // Only the column of bars has no title.
    if let Some(bar) = columns.iter().position(|column| column.title.is_empty())
        && widths[bar] > 0
    {
        widths[bar] = (widths[bar] + spare).min(BAR_WIDTH_MAX.max(columns[bar].width));
    }
    widths[0] = widths[0].min(width);
    widths
}

fn put_row(buffer: &mut Buffer, area: Rect, look: Look, widths: &[usize], row: &Row) {
    let mut x = area.x + 1;
    for (cell, width) in row.cells.iter().zip(widths).filter(|(_, width)| **width > 0) {
        if x >= area.right() {
            return;
        }
        let room = usize::from(area.right() - x).min(*width);
        match cell {
            Cell::Text(text) => {
                buffer.set_stringn(x, area.y, cut(text, room), room, Style::new());
            }
            Cell::Number(text) => {
                let text = format!("{:>room$}", cut(text, room));
                buffer.set_stringn(x, area.y, text, room, Style::new());
            }
            Cell::Bar(share, of_capacity) => {
                put_bar(buffer, Rect { x, width: room as u16, ..area }, look, *share, *of_capacity);
            }
        }
        x += (*width + GAP) as u16;
    }
}

fn put_bar(buffer: &mut Buffer, area: Rect, look: Look, share: f64, of_capacity: bool) {
    let width = usize::from(area.width);
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    // A fraction above 0 fills at least one cell, and only 1 fills all cells.
    let filled = match (share * width as f64).round() as usize {
        0 if share > 0.0 => 1,
        all if all == width && share < 1.0 => width.saturating_sub(1),
        some => some,
    };
    let colour = match share {
        _ if !of_capacity => Color::Cyan,
        s if s >= 0.9 => Color::Red,
        s if s >= 0.7 => Color::Yellow,
        _ => Color::Green,
    };
    let (full, empty) = if look.unicode { ("█", "░") } else { ("#", ".") };
    buffer.set_stringn(area.x, area.y, full.repeat(filled), width, look.in_colour(colour));
    let rest = width - filled.min(width);
    buffer.set_stringn(
        area.x + filled as u16,
        area.y,
        empty.repeat(rest),
        rest,
        look.in_colour(Color::DarkGray),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column { title: "POOL", width: 4, weight: 9 },
        Column { title: "LOAD", width: 4, weight: 8 },
        Column { title: "", width: 8, weight: 5 },
        Column { title: "HOLDERS", width: 7, weight: 1 },
    ];

    #[test]
    fn the_least_important_columns_are_left_out_first() {
        assert_eq!(fit(&COLUMNS, 20, 80), [20, 4, 40, 7]);
        assert_eq!(fit(&COLUMNS, 20, 40), [15, 4, 8, 7], "the name gets the spare width first");
        assert_eq!(fit(&COLUMNS, 20, 30), [14, 4, 8, 0]);
        assert_eq!(fit(&COLUMNS, 20, 20), [14, 4, 0, 0]);
        assert_eq!(fit(&COLUMNS, 20, 10), [10, 0, 0, 0]);
        assert_eq!(fit(&COLUMNS, 3, 10), [4, 4, 0, 0]);
    }

    fn bar(share: f64, unicode: bool) -> String {
        let area = Rect::new(0, 0, 10, 1);
        let mut buffer = Buffer::empty(area);
        put_bar(&mut buffer, area, Look { colour: true, unicode }, share, true);
        buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect()
    }

    #[test]
    fn bars_are_empty_only_at_0_and_full_only_at_1() {
        assert_eq!([bar(0.0, false), bar(0.001, false)], ["..........", "#........."]);
        assert_eq!([bar(0.5, true), bar(0.99, false)], ["█████░░░░░", "#########."]);
        assert_eq!(
            [bar(1.0, false), bar(7.0, false), bar(f64::NAN, false)],
            ["##########", "##########", ".........."]
        );
    }

    #[test]
    fn the_environment_decides_colours_and_characters() {
        let look = |set: &'static [(&str, &str)]| {
            Look::of_environment(|name| {
                set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(look(&[("LANG", "de_DE.UTF-8")]).unicode && !look(&[("LANG", "C")]).unicode);
        assert!(!look(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]).unicode);
        assert!(look(&[("NO_COLOR", "")]).colour && !look(&[("NO_COLOR", "1")]).colour);
    }
}
