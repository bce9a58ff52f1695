//! A TCP proxy between a sidecar and Redis that fails as networks fail.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink},
    net::{TcpListener, TcpStream, tcp},
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Maximum number of reads that a direction delays. TCP's flow control slows the sender down beyond.
const DELAYED_MAX: usize = 1024;

/// How the proxy treats bytes and new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Pass,
    /// Each direction is late by this much.
    Delay(Duration),
    /// Connections open and stay open, but no byte arrives.
    BlackHole,
    /// New connections end at once.
    Refuse,
}

/// How open connections end when the network changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order, with a FIN.
    Close,
    /// At once, with an RST.
    Reset,
    /// Never: the bytes of both sides disappear, as behind a firewall that has forgotten the connection.
    Strand,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// Each change ends the connections that are open.
    generation: u64,
    end: End,
}

#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    state: Arc<watch::Sender<State>>,
    to: Arc<AtomicU16>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy to a port of this machine.
    pub(super) async fn start(to: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(watch::Sender::new(State { mode: Mode::Pass, generation: 0, end: End::Close }));
        let to = Arc::new(AtomicU16::new(to));
        let task = tokio::spawn(accept(listener, Arc::clone(&state), Arc::clone(&to)));
        Ok(Self { port, state, to, task })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Returns whether bytes arrive, be they late.
    pub(super) fn passes(&self) -> bool {
        matches!(self.state.borrow().mode, Mode::Pass | Mode::Delay(_))
    }

    /// Ends the connections that are open now.
    pub(super) fn end_connections(&self, end: End) {
        self.state.send_modify(|state| (state.generation, state.end) = (state.generation + 1, end));
    }

    /// Directs new connections to another port.
    pub(super) fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<watch::Sender<State>>, to: Arc<AtomicU16>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let states = state.subscribe();
        if states.borrow().mode == Mode::Refuse {
            let _ = client.set_zero_linger();
            continue;
        }
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, to.load(Ordering::Relaxed)));
        connections.spawn(carry(client, server, states));
    }
}

/// Carries one connection until either side or the proxy ends it.
async fn carry(client: TcpStream, server: SocketAddr, mut states: watch::Receiver<State>) {
    let generation = states.borrow().generation;
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (up, down) = (states.clone(), states.clone());
    let end = tokio::select! {
        () = async {
            tokio::join!(
                forward(&mut from_client, &mut to_server, up),
                forward(&mut from_server, &mut to_client, down),
            );
        } => return,
        changed = states.wait_for(|state| state.generation != generation) => match changed {
            Ok(state) => state.end,
            Err(_) => return,
        },
    };
    match end {
        End::Close => {}
        End::Reset => {
            // A dropped half would send a FIN first.
            let _ = from_client.as_ref().set_zero_linger();
            to_client.forget();
        }
        End::Strand => {
            let _ = copy(&mut from_client, &mut sink()).await;
        }
    }
}

/// Forwards one direction until it ends, and passes the end on. Reading goes on while earlier bytes are late.
async fn forward(
    from: &mut tcp::OwnedReadHalf,
    to: &mut tcp::OwnedWriteHalf,
    mut states: watch::Receiver<State>,
) {
    let (sender, mut late) = mpsc::channel::<(Instant, Vec<u8>)>(DELAYED_MAX);
    let read = async move {
        let mut buffer = vec![0; 16_384];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now(), buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = late.recv().await {
            let mode = states.borrow().mode;
            if let Mode::Delay(delay) = mode {
                tokio::time::sleep_until((at + delay).into()).await;
            }
            let passes = states.wait_for(|state| state.mode != Mode::BlackHole).await.is_ok();
            if !passes || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a proxy to a server that echoes.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = copy(&mut from, &mut to).await;
                });
            }
        });
        Proxy::start(port).await.unwrap()
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
    }

    async fn is_echoed(stream: &mut TcpStream) -> std::io::Result<bool> {
        let mut byte = [0];
        stream.write_all(b"x").await?;
        Ok(stream.read(&mut byte).await? == 1)
    }

    #[tokio::test]
    async fn delayed_bytes_arrive_late_and_in_order() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        assert!(is_echoed(&mut stream).await.unwrap());
        proxy.set(Mode::Delay(Duration::from_millis(30)));
        let start = Instant::now();
        assert!(is_echoed(&mut stream).await.unwrap());
        assert!(start.elapsed() >= Duration::from_millis(60));
    }

    #[tokio::test]
    async fn connections_are_reset_closed_or_stranded() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        assert!(is_echoed(&mut stream).await.unwrap());
        proxy.end_connections(End::Reset);
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let mut stream = connect(&proxy).await;
        assert!(is_echoed(&mut stream).await.unwrap());
        proxy.end_connections(End::Close);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);

        let mut stranded = connect(&proxy).await;
        assert!(is_echoed(&mut stranded).await.unwrap());
        proxy.end_connections(End::Strand);
        let silent = tokio::time::timeout(Duration::from_millis(50), is_echoed(&mut stranded)).await;
        assert!(silent.is_err(), "{silent:?}");
        assert!(is_echoed(&mut connect(&proxy).await).await.unwrap());
    }

    #[tokio::test]
    async fn a_black_hole_keeps_bytes_until_it_is_gone() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        proxy.set(Mode::BlackHole);
        stream.write_all(b"x").await.unwrap();
        let mut byte = [0];
        let silent = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
        assert!(silent.is_err());
        proxy.set(Mode::Pass);
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1);
        proxy.set(Mode::Refuse);
        assert!(is_echoed(&mut connect(&proxy).await).await.is_err());
    }
}
