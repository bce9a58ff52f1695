//! TLS handshakes: many at once, each failure counted and logged with its peer.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::clock::unix_ms;
use evenkeel_telemetry::{Handshake, Metrics};
use evenkeel_tls::ServerTls;
use rustls::{AlertDescription, CertificateError, Error, ServerConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, warn};

use super::plain_text::{self, Start};
use crate::transport::connections::{Peer, Socket};

/// Maximum wait for a client to read why its handshake failed.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read and dropped meanwhile.
const LINGER_BYTES_MAX: u64 = 64 * 1024;

type Tcp = Socket<TcpStream>;

/// A connection after its handshake, and its peer with the names of the client's certificate if there is one.
pub(super) type Ready = (Box<TlsStream<Tcp>>, Peer);

/// The handshakes of a listener.
pub(crate) struct Handshakes {
    tls: watch::Receiver<ServerTls>,
    /// Selects the configuration of this listener.
    select: fn(&ServerTls) -> &Arc<ServerConfig>,
    running: JoinSet<Option<Ready>>,
    report: Arc<Report>,
}

impl Handshakes {
    /// `listener` is the name of the listener in metrics and in the log. Each handshake uses the newest configuration.
    pub(crate) fn new(
        listener: &'static str,
        tls: watch::Receiver<ServerTls>,
        select: fn(&ServerTls) -> &Arc<ServerConfig>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let report = Arc::new(Report { listener, metrics, logged_s: Default::default() });
        Self { tls, select, running: JoinSet::new(), report }
    }

    pub(super) fn start(&mut self, stream: Tcp) {
        let acceptor = TlsAcceptor::from(Arc::clone((self.select)(&self.tls.borrow())));
        let report = Arc::clone(&self.report);
        let peer = stream.peer();
        peer.begin_handshake();
        self.running.spawn(async move {
            match accept(acceptor, stream).await {
                Ok(stream) => {
                    peer.end_handshake();
                    report.metrics.tls.count(report.listener, Handshake::Accepted);
                    let certificates = stream.get_ref().1.peer_certificates();
                    let names = certificates.and_then(|chain| chain.first()).map(evenkeel_tls::names);
                    Some((stream, peer.with_certificate(names)))
                }
                Err(_) if peer.is_closed() => {
                    let reason = "the client sent nothing more, or others needed its place";
                    report.failed(peer.address(), &Failure::new(Handshake::TimedOut, reason));
                    None
                }
                Err(failure) => {
                    report.failed(peer.address(), &failure);
                    if let Some(stream) = failure.stream {
                        linger(stream).await;
                    }
                    None
                }
            }
        });
    }

    /// Waits for the next connection whose handshake succeeds. Cancelling loses none.
    pub(super) async fn next(&mut self) -> Ready {
        loop {
            match self.running.join_next().await {
                Some(Ok(Some(ready))) => return ready,
                // The handshake failed or was ended.
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Why a handshake failed.
struct Failure {
    result: Handshake,
    reason: String,
    /// The connection, if the client may still read why.
    stream: Option<Tcp>,
}

impl Failure {
    fn new(result: Handshake, reason: impl Into<String>) -> Self {
        Self { result, reason: reason.into(), stream: None }
    }
}

async fn accept(acceptor: TlsAcceptor, mut stream: Tcp) -> Result<Box<TlsStream<Tcp>>, Failure> {
    let closed = |error: io::Error| Failure::new(Handshake::Closed, error.to_string());
    match plain_text::start(&stream).await.map_err(closed)? {
        Start::Tls => {}
        Start::Closed => return Err(Failure::new(Handshake::Closed, "the client sent nothing")),
        Start::PlainText => {
            let answered = plain_text::answer(&mut stream).await;
            let failure = Failure::new(Handshake::PlainText, "the client does not speak TLS");
            return Err(Failure { stream: answered.ok().map(|()| stream), ..failure });
        }
    }
    let accepted = acceptor.accept(stream).into_fallible().await;
    accepted.map(Box::new).map_err(|(error, stream)| {
        let (result, reason) = reason(&error);
        Failure { result, reason, stream: Some(stream) }
    })
}

/// Lets the client read the last bytes. If the sidecar closed the connection at once while bytes of the client are
/// unread, the system would reset the connection, and the client would not see the alert.
async fn linger(mut stream: Tcp) {
    let drop_all = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER_MAX, drop_all).await;
}

/// Returns the kind of an error, and the reason for the log.
fn reason(error: &io::Error) -> (Handshake, String) {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return (Handshake::Closed, error.to_string());
    };
    let text = cause.to_string();
    match cause {
        Error::NoCertificatesPresented => (
            Handshake::NoCertificate,
            "the client shows no certificate, and tls.client_certificates is required".to_owned(),
        ),
        Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer => (
                Handshake::UnknownIssuer,
                "no authority in tls.client_ca_file has signed the client's certificate".to_owned(),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                (Handshake::Expired, format!("the client's certificate has expired: {text}"))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                (Handshake::NotYetValid, format!("the client's certificate is not valid yet: {text}"))
            }
            _ => (Handshake::BadCertificate, format!("the client's certificate is wrong: {text}")),
        },
        Error::AlertReceived(alert) if rejects_certificate(*alert) => {
            (Handshake::PeerRejected, format!("the client rejects the sidecar's certificate: {alert:?}"))
        }
        Error::AlertReceived(_) => (Handshake::Closed, text),
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => (Handshake::Incompatible, text),
        _ => (Handshake::Malformed, text),
    }
}

fn rejects_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// Counts and logs the failures of a listener.
struct Report {
    listener: &'static str,
    metrics: Arc<Metrics>,
    /// For each result, the time when it was last logged, in seconds since the Unix epoch.
    logged_s: [AtomicU64; Handshake::TABLE.len()],
}

impl Report {
    /// Counts every failure. Logs at most one failure of each kind per second, so that a client that tries again and
    /// again does not fill the log.
    fn failed(&self, address: Option<IpAddr>, failure: &Failure) {
        let Failure { result, reason, .. } = failure;
        self.metrics.tls.count(self.listener, *result);
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        let (listener, now) = (self.listener, unix_ms() / 1000);
        if *result == Handshake::Closed {
            // Health checks and port scans connect and say nothing.
            debug!(target: "evenkeel::tls", address, listener, reason, "TLS handshake failed");
        } else if self.logged_s[*result as usize].swap(now, Ordering::Relaxed) != now {
            warn!(target: "evenkeel::tls", address, listener, reason, "TLS handshake failed");
        }
    }
}
