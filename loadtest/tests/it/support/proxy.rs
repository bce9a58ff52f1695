//! A TCP proxy between a gateway and a sidecar, whose connections a test can break.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to the connections that are open. New connections are not affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The gateway and the sidecar receive a reset.
    Reset,
    /// Nothing passes in either direction, and nobody is informed.
    BlackHole,
    /// The sidecar sees the connection end. The gateway's side stays open, and nothing answers.
    HalfOpen,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Number of faults so far, and the last one.
    faults: watch::Sender<(u64, Option<Fault>)>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, and connects each client to `upstream`.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (faults, seen) = watch::channel((0, None));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut faults = seen.clone();
                faults.mark_unchanged();
                tokio::spawn(async move { connect(client, upstream, faults).await.unwrap_or_default() });
            }
        });
        Self { port, faults, accepting }
    }

    /// Breaks the open connections.
    pub(crate) fn inject(&self, fault: Fault) {
        self.faults.send_modify(|(count, last)| (*count, *last) = (*count + 1, Some(fault)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connect(
    mut client: TcpStream,
    upstream: SocketAddr,
    mut faults: watch::Receiver<(u64, Option<Fault>)>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return Ok(()),
        _ = faults.changed() => {}
    }
    let fault = faults.borrow().1;
    match fault {
        Some(Fault::Reset) => {
            // A socket that is closed without lingering sends a reset.
            client.set_zero_linger()?;
            server.set_zero_linger()?;
        }
        Some(Fault::BlackHole) => faults.wait_for(|_| false).await.map(drop).map_err(io::Error::other)?,
        Some(Fault::HalfOpen) => {
            server.shutdown().await?;
            drop(server);
            // What the gateway sends disappears until it closes the connection.
            let mut sink = [0; 4096];
            while client.read(&mut sink).await? > 0 {}
        }
        None => {}
    }
    Ok(())
}
