//! Answers clients that do not speak TLS, so that they see why the connection ends.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::transport::connections::Socket;

/// First byte of every TLS connection: a record of the type handshake.
const TLS_HANDSHAKE: u8 = 22;
/// How HTTP/2 connections begin, and gRPC with them.
const HTTP2: &[u8] = b"PRI";
const MESSAGE: &str = "this port speaks TLS: use https://\n";

/// What a connection begins with.
pub(super) enum Start {
    Tls,
    PlainText,
    /// The client closed the connection before it sent anything.
    Closed,
}

/// Waits for the first byte, which stays unread.
pub(super) async fn start(stream: &Socket<TcpStream>) -> io::Result<Start> {
    Ok(match stream.peek().await? {
        None => Start::Closed,
        Some(TLS_HANDSHAKE) => Start::Tls,
        Some(_) => Start::PlainText,
    })
}

/// Sends an error that clients of HTTP/1 or HTTP/2 understand.
pub(super) async fn answer(stream: &mut Socket<TcpStream>) -> io::Result<()> {
    let mut begin = [0; HTTP2.len()];
    stream.read_exact(&mut begin).await?;
    if begin == HTTP2 {
        return stream.write_all(&go_away()).await;
    }
    let length = MESSAGE.len();
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n";
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{MESSAGE}").as_bytes()).await
}

/// Returns empty HTTP/2 settings, and a GOAWAY frame with the error INADEQUATE_SECURITY and the message.
fn go_away() -> Vec<u8> {
    const INADEQUATE_SECURITY: u8 = 0xc;
    let message = MESSAGE.trim_end().as_bytes();
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The length of the message fits into one byte.
    frames.extend([0, 0, 8 + message.len() as u8, 7, 0, 0, 0, 0, 0]);
    frames.extend([0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    frames.extend(message);
    frames
}
