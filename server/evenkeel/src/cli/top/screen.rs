//! The terminal: taken over, and restored however `top` ends.

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

/// A key is looked for this often after the end is asked for.
const POLL: Duration = Duration::from_millis(50);
const KEYS_MAX: usize = 64;

/// What comes from the terminal.
pub(super) enum Input {
    Key(KeyEvent),
    /// Its size is another.
    Resized,
    Closed,
}

/// The terminal in raw mode, on its other screen; as it was again when dropped, and when something panics.
pub(super) struct Screen {
    pub(super) terminal: DefaultTerminal,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Screen {
    /// Takes the terminal over; keys come through the channel.
    pub(super) fn open() -> io::Result<(Self, mpsc::Receiver<Input>)> {
        // Sets a panic hook that restores the terminal, too.
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
        // Not waited for: it ends within a poll, or with the process.
        drop(self.reader.take());
    }
}
