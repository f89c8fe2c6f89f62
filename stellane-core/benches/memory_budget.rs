//! What the memory budget costs while nothing is near it: one keep-alive client against one server in one thread, behind
//! all that the preset has around a service.
//!
//! `stellane-core/benches/memory_budget_instructions` prints exact instructions of the server for each request, with the
//! budget and without it, by callgrind. The arguments are `on`, `off` or `counted` (on, and too little for an upload to be
//! set aside as a whole), then `hello`,
//! `bytes` (an upload that axum's `Bytes` collects), `stream` (one that is consumed as it comes) or `chunked` (the same of
//! unknown length), its size, and how many requests.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use http_body_util::BodyExt;
use stellane_core::{Components, RuntimeConfig, connection::ConnectionManager, memory::Budget};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::Layer;

async fn consume(mut body: Body) -> String {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    bytes.to_string()
}

fn app() -> Router {
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/bytes", post(async |body: Bytes| body.len().to_string()))
        .route("/stream", post(consume))
        .route("/chunked", post(consume))
        .layer(DefaultBodyLimit::disable())
}

/// The server: what is counted.
struct Server(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Server {
    #[inline(never)]
    fn serve(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Future for Server {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.serve(cx)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [mode, path, size, requests] = &args[..] else {
        return;
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let mut config = RuntimeConfig::default();
    config.memory.budget = match &**mode {
        "on" => Budget::Bytes(1 << 30),
        "counted" => Budget::Bytes(63 * number(size) as u64),
        _ => Budget::Off,
    };
    let components = Components::new(&config).expect("valid");
    let service = components.layer(&config.server).layer(app());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let connecting = TcpStream::connect(address);
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let (mut client, (socket, peer)) = (client.expect("connects"), accepted.expect("accepts"));
    let connections = ConnectionManager::builder().build().expect("valid");
    let serving = connections.serve_connection(socket, Some(peer), service);
    tokio::spawn(Server(Box::pin(async {
        let _ = serving.await;
    })));

    let head = match &**path {
        "hello" => "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "chunked" => format!(
            "POST /chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
            number(size)
        ),
        path => format!("POST /{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"),
    };
    let mut request = head.into_bytes();
    request.resize(request.len() + number(size), b'x');
    if path == "chunked" {
        request.extend_from_slice(b"\r\n0\r\n\r\n");
    }
    let mut answer = [0; 4096];
    for _ in 0..number(requests) {
        client.write_all(&request).await.expect("writes");
        let n = client.read(&mut answer).await.expect("reads");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    }
}
