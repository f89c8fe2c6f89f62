//! The programs that moved in by two lines, started as their users would, over real sockets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// A started program; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(program: &str) -> Self {
        let mut child = Command::new(program)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("it says where it is");
        let (_, rest) = line.split_once("http://").expect("a URL");
        let address = rest.split('/').next().expect("a host").parse();
        Self {
            child,
            address: address.expect("an address"),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("is set");
        stream
    }

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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_axum_program_loses_nothing() {
    let server = Server::start(env!("CARGO_BIN_EXE_serve_axum"));
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
    let server = Server::start(env!("CARGO_BIN_EXE_serve_tonic"));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address));
    let channel = endpoint.expect("an address").connect().await;
    let mut client = HealthClient::new(channel.expect("connects"));
    let answer = client.check(HealthCheckRequest::default()).await;
    assert_eq!(answer.expect("healthy").into_inner().status, 1);
}

#[test]
fn a_service_of_hyper_loses_nothing() {
    let server = Server::start(env!("CARGO_BIN_EXE_serve_hyper"));
    let answer = server.ask("POST /", "hello");
    assert!(answer.ends_with("hello"), "{answer}");
}
