//! Handles the keys of `top`. A key changes what the screen shows, or requests an action.

use evenkeel_proto::v1 as pb;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Key, Model, Sort, endpoints};

/// Sort orders of pools and of endpoints, in the sequence in which the key `s` selects them.
const POOL_SORTS: [Sort; 4] = [Sort::Load, Sort::InFlight, Sort::Name, Sort::Imbalance];
const ENDPOINT_SORTS: [Sort; 4] = [Sort::Load, Sort::InFlight, Sort::Name, Sort::Room];
const FILTER_CHARS_MAX: usize = 64;

/// The action that a key requests, if it does more than change the screen.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    None,
    Quit,
    Drain { endpoint: String, pool: Option<pb::Pool> },
    Undrain { endpoint: String, pool: pb::Pool },
}

/// The mode, which determines what the next key means.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    Browse,
    Help,
    /// The user types the filter.
    Filter,
    /// The screen asks whether to drain the endpoint, or to undrain it if `drained`.
    Confirm {
        endpoint: String,
        pool: pb::Pool,
        drained: bool,
    },
}

/// State of the user interface: the open list, its sort order, filter and selection.
#[derive(Debug)]
pub(super) struct Ui {
    /// The pool whose endpoints are shown; `None` shows the pools.
    pub(super) open: Option<Key>,
    /// Whether to open the first pool, because the command names only one pool.
    pub(super) open_first: bool,
    pub(super) pool: Option<Key>,
    pub(super) endpoint: Option<String>,
    pub(super) mode: Mode,
    pub(super) paused: bool,
    pub(super) message: String,
    /// Index of the first row on the screen, and the number of rows that fit.
    pub(super) top: usize,
    pub(super) rows: usize,
    filters: [String; 2],
    sorts: [usize; 2],
}

impl Ui {
    pub(super) fn new(open_first: bool) -> Self {
        Self {
            open: None,
            open_first,
            pool: None,
            endpoint: None,
            mode: Mode::Browse,
            paused: false,
            message: String::new(),
            top: 0,
            rows: 1,
            filters: Default::default(),
            sorts: [0, 0],
        }
    }

    fn level(&self) -> usize {
        usize::from(self.open.is_some())
    }

    pub(super) fn filter(&self) -> &str {
        &self.filters[self.level()]
    }

    pub(super) fn sort(&self) -> Sort {
        let sorts = if self.open.is_some() { ENDPOINT_SORTS } else { POOL_SORTS };
        sorts[self.sorts[self.level()] % sorts.len()]
    }

    /// Returns the index of the selected row; 0 if the selected item is gone.
    pub(super) fn selected(&self, model: &Model) -> usize {
        self.position(model).unwrap_or(0)
    }

    fn position(&self, model: &Model) -> Option<usize> {
        match &self.open {
            None => {
                let pools = model.pools(self.sort(), self.filter());
                pools.iter().position(|(key, _)| Some(*key) == self.pool.as_ref())
            }
            Some(key) => {
                let shown = endpoints(model.pool(key)?, self.sort(), self.filter());
                shown.iter().position(|endpoint| Some(&endpoint.address) == self.endpoint.as_ref())
            }
        }
    }

    fn select(&mut self, model: &Model, row: usize) {
        match &self.open {
            None => {
                let pools = model.pools(self.sort(), self.filter());
                self.pool = pools.get(row.min(pools.len().saturating_sub(1))).map(|(key, _)| (*key).clone());
            }
            Some(key) => {
                let Some(state) = model.pool(key) else { return };
                let shown = endpoints(state, self.sort(), self.filter());
                self.endpoint = shown.get(row.min(shown.len().saturating_sub(1))).map(|e| e.address.clone());
            }
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent, model: &Model) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::None };
        }
        match self.mode.clone() {
            Mode::Browse => self.browse(key.code, model),
            Mode::Help => {
                self.mode = Mode::Browse;
                Action::None
            }
            Mode::Filter => {
                self.type_filter(key.code);
                Action::None
            }
            Mode::Confirm { endpoint, pool, drained } => {
                self.mode = Mode::Browse;
                confirmed(key.code, endpoint, pool, drained)
            }
        }
    }

    fn browse(&mut self, code: KeyCode, model: &Model) -> Action {
        let row = self.selected(model);
        self.message.clear();
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Down | KeyCode::Char('j') => self.select(model, row + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(model, row.saturating_sub(1)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.select(model, row + self.rows),
            KeyCode::PageUp => self.select(model, row.saturating_sub(self.rows)),
            KeyCode::Home | KeyCode::Char('g') => self.select(model, 0),
            KeyCode::End | KeyCode::Char('G') => self.select(model, usize::MAX),
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => self.enter(model, row),
            KeyCode::Esc | KeyCode::Left | KeyCode::Char('h') | KeyCode::Backspace => self.leave(),
            KeyCode::Char('s') => self.sorts[self.level()] += 1,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('d') => self.ask_drain(model, row),
            KeyCode::Char('?') => self.mode = Mode::Help,
            _ => {}
        }
        Action::None
    }

    fn enter(&mut self, model: &Model, row: usize) {
        if self.open.is_none() {
            self.open = model.pools(self.sort(), self.filter()).get(row).map(|(key, _)| (*key).clone());
            self.pool.clone_from(&self.open);
            (self.endpoint, self.top) = (None, 0);
        }
    }

    /// Goes one step back: clears the filter if there is one, and otherwise closes the list of endpoints.
    fn leave(&mut self) {
        let level = self.level();
        if !self.filters[level].is_empty() {
            self.filters[level].clear();
        } else if self.open.take().is_some() {
            self.top = 0;
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        let level = self.level();
        let filter = &mut self.filters[level];
        match code {
            KeyCode::Char(c) if filter.chars().count() < FILTER_CHARS_MAX => filter.push(c),
            KeyCode::Backspace => drop(filter.pop()),
            KeyCode::Enter | KeyCode::Down | KeyCode::Up => self.mode = Mode::Browse,
            KeyCode::Esc => {
                filter.clear();
                self.mode = Mode::Browse;
            }
            _ => {}
        }
    }

    fn ask_drain(&mut self, model: &Model, row: usize) {
        let state = self.open.as_ref().and_then(|key| model.pool(key));
        let found = state.and_then(|state| {
            let shown = endpoints(state, self.sort(), self.filter());
            let pool = pb::Pool { route: state.route.clone(), cluster: state.cluster.clone() };
            shown.get(row).map(|endpoint| (endpoint.address.clone(), endpoint.drained, pool))
        });
        match found {
            Some((endpoint, drained, pool)) => {
                self.mode = Mode::Confirm { endpoint, pool, drained };
            }
            None => "open a pool and select an endpoint to drain".clone_into(&mut self.message),
        }
    }
}

/// Returns the action for the answer to the question. Any key other than `y` and `o` means no.
fn confirmed(code: KeyCode, endpoint: String, pool: pb::Pool, drained: bool) -> Action {
    match (code, drained) {
        (KeyCode::Char('y'), true) => Action::Undrain { endpoint, pool },
        (KeyCode::Char('y'), false) => Action::Drain { endpoint, pool: None },
        (KeyCode::Char('o'), false) => Action::Drain { endpoint, pool: Some(pool) },
        _ => Action::None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{
        super::model::tests::{endpoint, model_of, pool},
        *,
    };

    fn press(ui: &mut Ui, model: &Model, keys: &str) -> Action {
        let code = |c| match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        let keys = keys.chars().map(|c| KeyEvent::new(code(c), KeyModifiers::NONE));
        keys.map(|key| ui.key(key, model)).last().unwrap_or(Action::None)
    }

    fn model() -> Model {
        let a = pool("a", vec![endpoint("x", 3, 4), endpoint("y", 1, 4)]);
        let mut drained = endpoint("z", 0, 4);
        drained.drained = true;
        model_of(vec![a, pool("b", vec![drained])], Instant::now())
    }

    #[test]
    fn the_selection_stays_with_what_is_selected() {
        let (mut model, mut ui) = (model(), Ui::new(false));
        press(&mut ui, &model, "j");
        assert_eq!(ui.pool, Some(("b".to_owned(), String::new())));
        let busy = pool("b", vec![endpoint("z", 4, 4)]);
        model.hear(super::super::feed::News::Pool(Box::new(busy)), Instant::now());
        assert_eq!(ui.selected(&model), 0, "b has become the first");
        press(&mut ui, &model, "G");
        assert_eq!(ui.pool.as_ref().map(|(cluster, _)| cluster.as_str()), Some("a"));
        press(&mut ui, &model, "jjjj g");
        assert_eq!(ui.selected(&model), 0);
    }

    #[test]
    fn draining_asks_first() {
        let (model, mut ui) = (model(), Ui::new(false));
        assert_eq!(press(&mut ui, &model, "d"), Action::None);
        assert!(ui.message.contains("open a pool"));
        press(&mut ui, &model, "\nd");
        let llm = pb::Pool { route: String::new(), cluster: "a".into() };
        let asked = Mode::Confirm { endpoint: "x".into(), pool: llm.clone(), drained: false };
        assert_eq!(ui.mode, asked);
        assert_eq!(press(&mut ui, &model, "n"), Action::None, "any key but y and o means no");
        assert_eq!(press(&mut ui, &model, "dy"), Action::Drain { endpoint: "x".into(), pool: None });
        let only = Action::Drain { endpoint: "x".into(), pool: Some(llm) };
        assert_eq!(press(&mut ui, &model, "do"), only);
        let b = pb::Pool { route: String::new(), cluster: "b".into() };
        let undrain = Action::Undrain { endpoint: "z".into(), pool: b };
        assert_eq!(press(&mut ui, &model, "\u{1b}j\ndy"), undrain);
    }

    #[test]
    fn filters_orders_and_the_way_back() {
        let (model, mut ui) = (model(), Ui::new(false));
        press(&mut ui, &model, "/b");
        assert_eq!((ui.filter(), ui.mode == Mode::Filter), ("b", true));
        press(&mut ui, &model, "\n\n");
        assert_eq!(ui.open, Some(("b".to_owned(), String::new())));
        assert_eq!(
            (ui.filter(), ui.sort()),
            ("", Sort::Load),
            "pools and endpoints have separate filters and orders"
        );
        press(&mut ui, &model, "sss");
        assert_eq!(ui.sort(), Sort::Room);
        press(&mut ui, &model, "\u{1b}");
        assert_eq!((ui.open.is_none(), ui.filter(), ui.sort()), (true, "b", Sort::Load));
        press(&mut ui, &model, "\u{1b}");
        assert_eq!(ui.filter(), "");
        assert_eq!(press(&mut ui, &model, "?q"), Action::None, "any key leaves the help");
        assert_eq!(press(&mut ui, &model, "q"), Action::Quit);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut ui, &model, "/");
        assert_eq!(ui.key(ctrl_c, &model), Action::Quit, "in any mode");
    }
}
