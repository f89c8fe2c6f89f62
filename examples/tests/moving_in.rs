//! The programs that moved in by two lines, started as their users would, over real sockets.

#[path = "support/server.rs"]
mod server;

use std::io::{Read, Write};

use server::Server;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

impl Server {
    /// The answer to a request that ends its connection.
    fn ask(&self, line: &str, body: &str) -> String {
        let length = body.len();
        let mut stream = self.connect();
        write!(
            stream,
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        answer
    }
}

#[test]
fn an_axum_program_loses_nothing() {
    let (server, _) = Server::start(env!("CARGO_BIN_EXE_serve_axum"));
    for visit in 1..3 {
        let answer = server.ask("GET /", "");
        let hello = format!("hello, 127.0.0.1, for the {visit}. time\n");
        assert!(answer.ends_with(&hello), "{answer}");
    }
    let events = server.ask("GET /ticks", "");
    assert!(
        events.contains("\r\ncontent-type: text/event-stream\r\n"),
        "{events}"
    );
    assert!(events.contains("data: tick 2\n\n"), "{events}");
    let file = server.ask("GET /files/Cargo.toml", "");
    assert!(file.contains("name = \"stellane-examples\""), "{file}");

    let mut socket = server.connect();
    socket
        .write_all(
            b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .expect("writes");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    // A whole text of two bytes, masked by zeros, and the same without a mask.
    socket
        .write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])
        .expect("writes");
    let mut echoed = [0; 4];
    socket.read_exact(&mut echoed).expect("an echo");
    assert_eq!(&echoed, &[0x81, 2, b'h', b'i']);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tonic_program_loses_nothing() {
    let (server, _) = Server::start(env!("CARGO_BIN_EXE_serve_tonic"));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address));
    let channel = endpoint.expect("an address").connect().await;
    let mut client = HealthClient::new(channel.expect("connects"));
    let answer = client.check(HealthCheckRequest::default()).await;
    assert_eq!(answer.expect("healthy").into_inner().status, 1);
}

#[test]
fn a_service_of_hyper_loses_nothing() {
    let (server, _) = Server::start(env!("CARGO_BIN_EXE_serve_hyper"));
    let answer = server.ask("POST /", "hello");
    assert!(answer.ends_with("hello"), "{answer}");
}
