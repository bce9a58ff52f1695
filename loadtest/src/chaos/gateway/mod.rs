//! Model gateways: clients that behave as the plugin does and know which of their requests are in flight.
//!
//! Each gateway has a thread with a runtime, and nothing else runs on it. A frozen gateway is a blocked thread, and a
//! killed one a dropped runtime. For the sidecar, this is the same as SIGSTOP and SIGKILL: in both cases the kernel keeps
//! the connections open, or closes them.

mod state;
mod stream;
mod traffic;
mod unary;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use parking_lot::{Mutex, MutexGuard};
pub(super) use state::{MODEL, OUTPUT_TOKENS_MAX, State, consumer_name};
use tokio::sync::{mpsc, oneshot, watch};

use super::{record::Record, truth::Leases};
use crate::lab::LabError;

/// Longest time from [`Gateway::leave`] until a gateway has left.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(20);

/// How a gateway calls its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// Over one stream, as the plugin does.
    Stream,
    Unary,
}

/// What a gateway does with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Run,
    /// Begins and ends no request. Everything else goes on.
    Quiet,
    /// Begins no request, ends all, and then leaves.
    Leave,
}

/// What a gateway needs to run.
#[derive(Clone, Debug)]
struct Worker {
    holder: String,
    state: Arc<Mutex<State>>,
    record: Arc<Record>,
    /// URLs of all sidecars.
    sidecars: Arc<[String]>,
    /// Index of the sidecar that the gateway prefers.
    home: usize,
    seed: u64,
    mode: watch::Receiver<Mode>,
}

#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) holder: String,
    pub(super) calls: Calls,
    state: Arc<Mutex<State>>,
    record: Arc<Record>,
    mode: watch::Sender<Mode>,
    /// Blocks the gateway's thread until the sender on the other side is dropped.
    freezes: mpsc::UnboundedSender<std::sync::mpsc::Receiver<()>>,
    killed: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// While this value exists, a gateway is frozen.
#[derive(Debug)]
pub(super) struct Frozen {
    _until_dropped: std::sync::mpsc::Sender<()>,
}

impl Gateway {
    pub(super) fn start(
        holder: String,
        calls: Calls,
        sidecars: Arc<[String]>,
        home: usize,
        seed: u64,
        record: Arc<Record>,
    ) -> Result<Self, LabError> {
        let (mode, modes) = watch::channel(Mode::Run);
        let (freezes, frozen) = mpsc::unbounded_channel();
        let (kill, killed) = oneshot::channel();
        let state = Arc::<Mutex<State>>::default();
        let worker = Worker {
            holder: holder.clone(),
            state: Arc::clone(&state),
            record: Arc::clone(&record),
            sidecars,
            home,
            seed,
            mode: modes,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LabError::io("starting a gateway"))?;
        let thread = std::thread::Builder::new().name(holder.clone()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = run(worker, calls) => {}
                    () = freeze(frozen) => {}
                    _ = killed => {}
                }
            });
        });
        let thread = Some(thread.map_err(LabError::io("starting a gateway"))?);
        Ok(Self { holder, calls, state, record, mode, freezes, killed: Some(kill), thread })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn leases(&self) -> Leases {
        self.state().live.clone()
    }

    /// Lets the gateway begin and end no request until [`Self::resume`].
    pub(super) fn hush(&self) {
        self.mode.send_replace(Mode::Quiet);
    }

    pub(super) fn resume(&self) {
        self.mode.send_replace(Mode::Run);
    }

    /// Stops the gateway's thread until the returned value is dropped.
    pub(super) fn freeze(&self) -> Frozen {
        let (until_dropped, blocks) = std::sync::mpsc::channel();
        let _ = self.freezes.send(blocks);
        Frozen { _until_dropped: until_dropped }
    }

    /// Ends the gateway without a word, and everything that only the gateway knows.
    pub(super) fn kill(mut self) {
        self.stop();
        self.state.lock().abandon_all(&self.record);
    }

    /// Lets the gateway end all requests and say goodbye. The gateway has left once [`Self::has_left`].
    pub(super) fn leave(&self) {
        self.mode.send_replace(Mode::Leave);
    }

    pub(super) fn has_left(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn stop(&mut self) {
        if let Some(killed) = self.killed.take() {
            let _ = killed.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn run(worker: Worker, calls: Calls) {
    match calls {
        Calls::Stream => stream::run(worker).await,
        Calls::Unary => unary::run(worker).await,
    }
}

/// Blocks the thread, and with it everything that the gateway does, whenever it receives something to wait for.
async fn freeze(mut frozen: mpsc::UnboundedReceiver<std::sync::mpsc::Receiver<()>>) {
    while let Some(until_dropped) = frozen.recv().await {
        let _ = until_dropped.recv();
    }
    std::future::pending::<()>().await;
}
