#![allow(dead_code, reason = "each test uses its part")]

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// What a client is told to the end of its connection, which the request asks for.
pub(crate) async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    io.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.expect("reads");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The same on a connection of its own.
pub(crate) async fn ask_at(address: SocketAddr, request: &str) -> String {
    let stream = TcpStream::connect(address).await.expect("connects");
    ask(stream, request).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    ask_at(address, &head).await
}
