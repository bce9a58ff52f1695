//! Draws the screen of `top` into a buffer of any size.

use std::time::Instant;

use evenkeel_proto::v1 as pb;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    super::{
        pools::{ALL_ROUTES, marks, pool_text},
        table::cut,
    },
    grid::{self, Cell, Column, Look, Row, line},
    keys::{Mode, Ui},
    model::{Key, Model, endpoints, full},
};

/// Number of lines above the table.
pub(super) const HEAD_LINES: u16 = 3;

const HELP: &[(&str, &str)] = &[
    ("up down j k", "select; PgUp PgDn, g G: by pages, first and last"),
    ("Enter", "the endpoints of the selected pool"),
    ("Esc", "clear the filter, then go back"),
    ("s", "change the order: load, in flight, name, imbalance or room"),
    ("/", "filter by a part of the name"),
    ("p", "pause the display"),
    ("d", "drain the selected endpoint, or undrain it"),
    ("q Ctrl-C", "quit"),
    ("", ""),
    ("LOAD", "in flight as a share of the caps; without caps a bar relative to the busiest"),
    ("FULL", "endpoints at their cap"),
    ("IMBALANCE", "share of the requests in flight that would have to move"),
];

/// One frame of `top`: the model of the sidecar at `url`, at the time `now`.
pub(super) struct View<'a> {
    pub(super) url: &'a str,
    pub(super) model: &'a Model,
    pub(super) look: Look,
    pub(super) now: Instant,
}

impl View<'_> {
    /// Draws the whole screen, and scrolls so that the selected row is visible.
    pub(super) fn draw(&self, buffer: &mut Buffer, ui: &mut Ui) {
        let area = *buffer.area();
        if area.width < 4 || area.height == 0 {
            return;
        }
        self.head(buffer, area, ui);
        let foot = area.height.saturating_sub(1);
        let body = Rect { y: HEAD_LINES, height: foot.saturating_sub(HEAD_LINES), ..area };
        if body.height > 0 && HEAD_LINES < area.height {
            ui.rows = usize::from(body.height).saturating_sub(1).max(1);
            if ui.mode == Mode::Help {
                help(buffer, body);
            } else {
                self.body(buffer, body, ui);
            }
        }
        if foot >= HEAD_LINES {
            self.foot(buffer, line(area, foot), ui);
        }
    }

    /// Draws the lines above the table: the sidecar and its state, the totals and rates, and the title of the list.
    pub(super) fn head(&self, buffer: &mut Buffer, area: Rect, ui: &Ui) {
        let (state, style) = self.state(ui);
        let name = format!(" evenkeel top  {}", self.url);
        // On a narrow screen, the state matters more than the address.
        let room = usize::from(area.width).saturating_sub(state.width() + 3);
        put(buffer, area, 0, &cut(&name, room), Style::new().add_modifier(Modifier::BOLD));
        let x = area.width.saturating_sub(state.width() as u16 + 1);
        buffer.set_stringn(x, area.y, &state, usize::from(area.width - x), style);
        if area.height > 1 {
            put(buffer, area, 1, &self.totals(), Style::new());
        }
        if area.height > 2 {
            put(buffer, area, 2, &self.subject(ui), Style::new().add_modifier(Modifier::DIM));
        }
    }

    fn state(&self, ui: &Ui) -> (String, Style) {
        let ago = |at: Instant| self.now.saturating_duration_since(at).as_secs_f64();
        let Self { model, look, .. } = self;
        if let Some((since, _)) = &model.lost {
            return (format!("no answer for {:.0}s", ago(*since)), look.in_colour(Color::Red));
        }
        let Some(seen) = model.seen else { return ("connecting".to_owned(), Style::new()) };
        let (store, colour) = match model.store_up() {
            Some(true) => ("store up", Color::Green),
            Some(false) => ("store down", Color::Red),
            None => ("store unknown", Color::Reset),
        };
        let mut words = vec![store.to_owned()];
        let unlimited = model.unlimited;
        if unlimited > 0 {
            words.insert(0, format!("{unlimited} NOT LIMITED"));
        }
        let colour = if unlimited > 0 { Color::Red } else { colour };
        if let Some(sidecars) = &model.sidecars {
            let alive = sidecars.iter().filter(|sidecar| sidecar.alive).count();
            words.push(format!("sidecars {alive}/{}", sidecars.len()));
        }
        words.push(format!("last seen {:.1}s ago", ago(seen)));
        if ui.paused {
            words.push("PAUSED".to_owned());
        }
        (words.join("  "), look.in_colour(colour))
    }

    fn totals(&self) -> String {
        let totals = self.model.totals();
        let of = totals.capacity.map_or_else(String::new, |capacity| {
            format!(" of {capacity} ({:.0}%)", percent(totals.in_flight as f64 / capacity as f64))
        });
        let rates = self.model.rates.map_or_else(
            || "rates unknown".to_owned(),
            |(admitted, refused)| format!("admits {admitted:.1}/s  refusals {refused:.1}/s"),
        );
        let mut endpoints = vec![format!("endpoints {}", totals.endpoints)];
        for (n, what) in [(totals.full, "full"), (totals.drained, "drained")] {
            if n > 0 {
                endpoints.push(format!("{n} {what}"));
            }
        }
        format!(
            " in flight {}{of}  {rates}  pools {}  {}",
            totals.in_flight,
            totals.pools,
            endpoints.join(", ")
        )
    }

    fn subject(&self, ui: &Ui) -> String {
        let what = match &ui.open {
            None => "pools".to_owned(),
            Some((cluster, route)) => {
                let state = self.model.pool(&(cluster.clone(), route.clone()));
                let holders = state.map_or(0, |state| state.holders);
                format!("{} of {holders} holders", title(cluster, route))
            }
        };
        let filter = ui.filter();
        let filter = if filter.is_empty() { String::new() } else { format!(", with {filter:?}") };
        format!(" {what}, by {}{filter}", ui.sort().name())
    }

    fn body(&self, buffer: &mut Buffer, area: Rect, ui: &mut Ui) {
        let (columns, rows) = match ui.open.clone() {
            Some(key) => match self.model.pool(&key) {
                Some(state) => self.endpoint_rows(state, ui),
                None => (Vec::new(), Vec::new()),
            },
            None => self.pool_rows(ui),
        };
        if rows.is_empty() {
            return put(buffer, area, 0, self.nothing(ui), Style::new());
        }
        let selected = ui.selected(self.model);
        ui.top = ui.top.min(selected).max((selected + 1).saturating_sub(ui.rows));
        ui.top = ui.top.min(rows.len().saturating_sub(ui.rows));
        grid::draw(buffer, area, self.look, &columns, rows.get(ui.top..).unwrap_or(&[]));
    }

    /// Returns the text shown instead of an empty list.
    fn nothing(&self, ui: &Ui) -> &'static str {
        match (&self.model.seen, ui.filter().is_empty(), ui.open.is_some()) {
            (None, ..) => " no sidecar has answered yet",
            (_, false, _) => " nothing matches the filter; Esc clears it",
            (_, true, true) => " no endpoints known; Esc goes back",
            (_, true, false) => " no pools yet: no gateway has sent a request, and none is configured",
        }
    }

    pub(super) fn pool_rows(&self, ui: &Ui) -> (Vec<Column>, Vec<Row>) {
        let columns = [
            ("POOL", 8, 9),
            ("IN-FLIGHT", 9, 8),
            ("CAPACITY", 8, 7),
            ("LOAD", 5, 6),
            ("", 10, 5),
            ("ENDPOINTS", 9, 3),
            ("FULL", 4, 4),
            ("HOLDERS", 7, 1),
            ("IMBALANCE", 9, 2),
        ];
        let pools = self.model.pools(ui.sort(), ui.filter());
        let busiest = pools.iter().map(|(_, state)| state.in_flight).max().unwrap_or(0);
        let selected = ui.selected(self.model);
        let row = |(i, (key, state)): (usize, &(&Key, &pb::PoolState))| {
            let capacity = state.capacity.filter(|capacity| *capacity > 0);
            let load = capacity.map(|capacity| state.in_flight as f64 / capacity as f64);
            let drained = state.endpoints.iter().filter(|endpoint| endpoint.drained).count();
            let drained = if drained > 0 { format!(" -{drained}") } else { String::new() };
            let away = if state.current { "" } else { " (store down)" };
            let cells = vec![
                Cell::Text(format!("{}{away}", title(&key.0, &key.1))),
                Cell::Number(state.in_flight.to_string()),
                Cell::Number(state.capacity.map_or_else(|| "-".to_owned(), |capacity| capacity.to_string())),
                Cell::Number(load.map_or_else(|| "-".to_owned(), |load| format!("{:.0}%", percent(load)))),
                bar(load, state.in_flight as f64, busiest as f64),
                Cell::Number(format!("{}{drained}", state.endpoints.len())),
                Cell::Number(full(state).to_string()),
                Cell::Number(state.holders.to_string()),
                Cell::Number(format!("{:.0}%", percent(state.imbalance))),
            ];
            Row { cells, selected: i == selected, dim: false }
        };
        (columns.map(column).into(), pools.iter().enumerate().map(row).collect())
    }

    pub(super) fn endpoint_rows(&self, state: &pb::PoolState, ui: &Ui) -> (Vec<Column>, Vec<Row>) {
        let columns = [
            ("ENDPOINT", 8, 9),
            ("IN-FLIGHT", 9, 8),
            ("CAP", 6, 7),
            ("WEIGHT", 6, 2),
            ("LOAD", 5, 6),
            ("", 10, 4),
            ("SHARE", 5, 3),
            ("STATE", 13, 5),
        ];
        let shown = endpoints(state, ui.sort(), ui.filter());
        let by_weight =
            |e: &pb::EndpointState| if e.weight > 0.0 { e.in_flight as f64 / e.weight } else { 0.0 };
        let busiest = state.endpoints.iter().map(by_weight).fold(0.0, f64::max);
        let selected = ui.selected(self.model);
        let row = |(i, endpoint): (usize, &&pb::EndpointState)| {
            let load = (endpoint.cap > 0).then(|| endpoint.in_flight as f64 / f64::from(endpoint.cap));
            let share = endpoint.in_flight as f64 / (state.in_flight.max(1)) as f64;
            let cells = vec![
                Cell::Text(endpoint.address.clone()),
                Cell::Number(endpoint.in_flight.to_string()),
                Cell::Number(or_dash(endpoint.cap.into())),
                Cell::Number(endpoint.weight.to_string()),
                Cell::Number(load.map_or_else(|| "-".to_owned(), |load| format!("{:.0}%", percent(load)))),
                bar(load, by_weight(endpoint), busiest),
                Cell::Number(format!("{:.0}%", percent(share))),
                Cell::Text(marks(endpoint).join(", ")),
            ];
            Row { cells, selected: i == selected, dim: endpoint.drained || !endpoint.listed }
        };
        (columns.map(column).into(), shown.iter().enumerate().map(row).collect())
    }

    fn foot(&self, buffer: &mut Buffer, area: Rect, ui: &Ui) {
        let (text, style) = match &ui.mode {
            Mode::Filter => (format!("/{}_", ui.filter()), Style::new()),
            Mode::Confirm { endpoint, drained: true, .. } => {
                (format!("undrain {endpoint}?  y yes  n no"), self.look.in_colour(Color::Yellow))
            }
            Mode::Confirm { endpoint, pool, .. } => {
                let pool = pool_text(Some(pool), "");
                let ask = format!("drain {endpoint}?  y in every pool  o only in {pool}  n no");
                (ask, self.look.in_colour(Color::Yellow))
            }
            Mode::Help => ("any key goes back".to_owned(), Style::new()),
            Mode::Browse => match (&self.model.lost, ui.message.is_empty()) {
                (Some((_, why)), _) => (
                    format!("no answer from {}; trying again: {why}", self.url),
                    self.look.in_colour(Color::Red),
                ),
                (None, false) => (ui.message.clone(), self.look.in_colour(Color::Yellow)),
                (None, true) if ui.open.is_some() => {
                    ("Esc back  s order  / filter  d drain  p pause  ? help  q quit".to_owned(), Style::new())
                }
                (None, true) => {
                    ("Enter endpoints  s order  / filter  p pause  ? help  q quit".to_owned(), Style::new())
                }
            },
        };
        put(buffer, area, 0, &format!(" {text}"), style);
    }
}

fn help(buffer: &mut Buffer, area: Rect) {
    for (i, (key, what)) in HELP.iter().enumerate().take(usize::from(area.height)) {
        put(buffer, area, i as u16, &format!(" {key:<12} {what}"), Style::new());
    }
}

/// Draws one line of text, cut to the width of the area.
fn put(buffer: &mut Buffer, area: Rect, i: u16, text: &str, style: Style) {
    if i < area.height {
        buffer.set_stringn(area.x, area.y + i, cut(text, area.width.into()), area.width.into(), style);
    }
}

fn column((title, width, weight): (&'static str, usize, u8)) -> Column {
    Column { title, width, weight }
}

/// Returns a pool's name: its cluster, and its route unless all routes share the pool.
fn title(cluster: &str, route: &str) -> String {
    let route = if route.is_empty() { ALL_ROUTES } else { route };
    format!("{cluster} {route}")
}

fn or_dash(n: u64) -> String {
    if n == 0 { "-".to_owned() } else { n.to_string() }
}

fn percent(share: f64) -> f64 {
    share * 100.0
}

/// Returns a bar that the load fills or, without a cap, a bar relative to the busiest row.
fn bar(load: Option<f64>, of: f64, busiest: f64) -> Cell {
    load.map_or_else(
        || Cell::Bar(if busiest > 0.0 { of / busiest } else { 0.0 }, false),
        |load| Cell::Bar(load, true),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::{
        super::{
            feed::News,
            model::tests::{endpoint, model_of, pool},
        },
        *,
    };

    const LOOK: Look = Look { colour: false, unicode: false };

    fn screen(model: &Model, ui: &mut Ui, now: Instant, width: u16, height: u16) -> Vec<String> {
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        View { url: "http://127.0.0.1:9190", model, look: LOOK, now }.draw(&mut buffer, ui);
        super::super::lines(&buffer)
    }

    fn press(ui: &mut Ui, model: &Model, code: KeyCode) {
        ui.key(KeyEvent::new(code, KeyModifiers::NONE), model);
    }

    fn model(now: Instant) -> Model {
        let llm = pool("llm", vec![endpoint("10.0.0.1:80", 8, 8), endpoint("10.0.0.2:80", 3, 8)]);
        model_of(vec![llm, pool("free", vec![endpoint("10.0.0.3:80", 2, 0)])], now)
    }

    #[test]
    fn pools_and_their_endpoints_are_shown() {
        let now = Instant::now();
        let (model, mut ui) = (model(now), Ui::new(false));
        let shown = screen(&model, &mut ui, now, 100, 10);
        assert_eq!(
            shown[..6],
            [
                " evenkeel top  http://127.0.0.1:9190                                   store up  last seen 0.0s ago",
                " in flight 13  rates unknown  pools 2  endpoints 3, 1 full",
                " pools, by load",
                " POOL        IN-FLIGHT  CAPACITY   LOAD                          ENDPOINTS  FULL  HOLDERS  IMBALANCE",
                " llm (all)          11        16    69%  ###############.......          2     1        0         0%",
                " free (all)          2         -      -  ####..................          1     0        0         0%",
            ]
        );
        press(&mut ui, &model, KeyCode::Enter);
        let shown = screen(&model, &mut ui, now, 100, 10);
        assert!(shown[2].starts_with(" llm (all) of 0 holders, by load"), "{shown:#?}");
        assert!(
            shown[4].contains("10.0.0.1:80") && shown[4].contains("100%") && shown[4].contains("73%"),
            "{shown:#?}"
        );
    }

    #[test]
    fn any_size_is_survived() {
        let now = Instant::now();
        let many =
            (0..500).map(|i| endpoint(&format!("10.0.{}.{}:8080", i / 250, i % 250), i, 512)).collect();
        let model = model_of(vec![pool("llm", many), pool("ein-sehr-langer-name-日本", vec![])], now);
        for (width, height) in (0..=90).flat_map(|width| [0, 1, 2, 3, 4, 5, 24].map(|height| (width, height)))
        {
            let mut ui = Ui::new(false);
            for key in [KeyCode::Null, KeyCode::Enter, KeyCode::End, KeyCode::Char('?'), KeyCode::Char('d')] {
                press(&mut ui, &model, key);
                screen(&model, &mut ui, now, width, height);
            }
        }
    }

    #[test]
    fn what_is_selected_is_in_sight_of_500() {
        let now = Instant::now();
        let many = (0..500).map(|i| endpoint(&format!("e{i:03}"), 500 - i, 512)).collect();
        let (model, mut ui) = (model_of(vec![pool("llm", many)], now), Ui::new(false));
        press(&mut ui, &model, KeyCode::Enter);
        for (key, expected) in [
            (KeyCode::Null, "e000"),
            (KeyCode::End, "e499"),
            (KeyCode::PageUp, "e480"),
            (KeyCode::Up, "e479"),
            (KeyCode::Home, "e000"),
        ] {
            press(&mut ui, &model, key);
            let shown = screen(&model, &mut ui, now, 80, 24);
            assert!(shown.iter().any(|line| line.contains(expected)), "{key:?}: {shown:#?}");
        }
    }

    #[test]
    fn it_says_when_there_is_no_answer() {
        let now = Instant::now();
        let (mut model, mut ui) = (model(now), Ui::new(false));
        model.hear(News::Lost("Connection refused".into()), now);
        let shown = screen(&model, &mut ui, now + Duration::from_secs(7), 80, 10);
        assert!(shown[0].ends_with("no answer for 7s"), "{shown:#?}");
        assert_eq!(shown[9], " no answer from http://127.0.0.1:9190; trying again: Connection refused");
        assert!(shown[4].contains("llm (all)"), "the last figures stay: {shown:#?}");
    }

    #[test]
    fn gateways_without_limits_are_counted() {
        let now = Instant::now();
        let (mut model, mut ui) = (model(now), Ui::new(false));
        model.hear(News::Unlimited(2), now);
        let shown = screen(&model, &mut ui, now, 80, 10);
        assert!(shown[0].ends_with("2 NOT LIMITED  store up  last seen 0.0s ago"), "{shown:#?}");
        model.hear(News::Unlimited(0), now);
        assert!(!screen(&model, &mut ui, now, 80, 10)[0].contains("NOT LIMITED"));
    }
}
