//! Takes over the terminal, and restores it however `top` ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEvent, KeyEventKind},
};
use tokio::sync::mpsc;

/// Interval at which the keyboard thread checks whether `top` has ended.
const POLL: Duration = Duration::from_millis(50);
const KEYS_MAX: usize = 64;

pub(super) enum Input {
    Key(KeyEvent),
    Resized,
    Closed,
}

/// The terminal in raw mode, on its alternate screen. Dropping this value restores the terminal; so does a panic.
pub(super) struct Screen {
    pub(super) terminal: DefaultTerminal,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Screen {
    /// Takes over the terminal. Returns it with a channel that delivers keys and size changes.
    pub(super) fn open() -> io::Result<(Self, mpsc::Receiver<Input>)> {
        // `try_init` also sets a panic hook that restores the terminal.
        let terminal = ratatui::try_init()?;
        let (send, receive) = mpsc::channel(KEYS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let input = match event::poll(POLL) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let input = match input {
                    Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
                    Ok(Event::Resize(..)) => Input::Resized,
                    Ok(_) => continue,
                    Err(_) => Input::Closed,
                };
                let closed = matches!(input, Input::Closed);
                if send.blocking_send(input).is_err() || closed {
                    return;
                }
            }
        });
        Ok((Self { terminal, stop, reader: Some(reader) }, receive))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        ratatui::restore();
        // The keyboard thread need not be joined, because it ends within one poll interval or with the process.
        drop(self.reader.take());
    }
}
