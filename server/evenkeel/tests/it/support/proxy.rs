//! A TCP proxy that misbehaves as a network does, if a test asks it to.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::redis::store_at;

/// How the proxy treats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// The proxy holds back all bytes, and connections stay open.
    Stall,
    /// The proxy holds back all bytes of the connections that are open, and carries new ones.
    StallOld,
    /// The proxy closes all connections, and every new connection at once.
    Refuse,
    /// The proxy cuts the next reply after its first byte, and closes that connection.
    CutReply,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: Arc<watch::Sender<Mode>>,
    to: Arc<AtomicU16>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let modes = Arc::clone(&mode);
        let to = Arc::new(AtomicU16::new(to));
        let leads_to = Arc::clone(&to);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                if *modes.borrow() == Mode::Refuse {
                    continue;
                }
                let mode = modes.subscribe();
                let to = leads_to.load(Ordering::Relaxed);
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                        carry(client, server, mode).await;
                    }
                });
            }
        });
        Self { port, mode, to, task }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Directs new connections to another port.
    pub(crate) fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::Relaxed);
    }

    /// Returns the configuration section `store` for a sidecar behind the proxy. `more` continues the section.
    pub(crate) fn store(&self, more: &str) -> String {
        store_at(&self.url(), more)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, mut mode: watch::Receiver<Mode>) {
    let (mut up, mut down) = ([0; 16_384], [0; 16_384]);
    let opened_under = *mode.borrow();
    loop {
        let now = match *mode.borrow_and_update() {
            Mode::StallOld if opened_under == Mode::StallOld => Mode::Pass,
            Mode::StallOld => Mode::Stall,
            now => now,
        };
        if now == Mode::Refuse {
            return;
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            read = client.read(&mut up), if now != Mode::Stall => match read {
                Ok(n) if n > 0 && server.write_all(&up[..n]).await.is_ok() => {}
                _ => return,
            },
            read = server.read(&mut down), if now != Mode::Stall => match read {
                Ok(n) if n > 0 => {
                    if now == Mode::CutReply {
                        let _ = client.write_all(&down[..1]).await;
                        return;
                    }
                    if client.write_all(&down[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
