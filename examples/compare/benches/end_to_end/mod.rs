//! Does pooling pay end to end? The same handlers with and without pools, over loopback, in one process,
//! in alternating batches; what is compared is the CPU time of the server's thread. Linux only.

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use stellane_pool::{PoolConfig, PoolLayer, PooledBody, Pools, http::reply};
use tower::{Layer, Service, service_fn};

const ROUNDS: usize = 21;

pub(crate) fn main() {
    // `cargo test --benches` only asks whether it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        ROUNDS
    } else {
        1
    };
    println!(
        "| workload | unpooled, CPU µs/request | pooled | pooled / unpooled |\n|---|---|---|---|"
    );
    let browser = "GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: test\r\naccept: */*\r\n\
        accept-language: en\r\naccept-encoding: gzip\r\ncache-control: no-cache\r\ncookie: a=b\r\n\
        dnt: 1\r\npragma: no-cache\r\nreferer: http://localhost/\r\norigin: http://localhost\r\n\
        authorization: Bearer x\r\nif-none-match: \"x\"\r\nupgrade-insecure-requests: 1\r\n\r\n";
    let get = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    compare(
        rounds,
        "hello, 14 headers, header map round trip",
        browser,
        (hello, hello_reply),
    );
    for items in [10, 200, 5_000] {
        let name = format!("JSON of {} KiB", json(items).len().div_ceil(1024));
        compare(
            rounds,
            &name,
            get,
            (move || json_vec(items), move || json_pooled(items, false)),
        );
    }
    for (size, scrub) in [
        (1 << 10, false),
        (16 << 10, false),
        (256 << 10, false),
        (1 << 20, false),
        (256 << 10, true),
    ] {
        let body = "e".repeat(size);
        let request =
            format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n{body}");
        let name = format!(
            "echo of {} KiB{}",
            size >> 10,
            if scrub { ", scrubbed" } else { "" }
        );
        compare(rounds, &name, &request, (echo, move || echo_pooled(scrub)));
    }
}

type Reply = Response<PooledBody>;

fn text(mut response: Reply) -> Result<Reply, Infallible> {
    let value = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    Ok(response)
}

fn full(bytes: impl Into<Bytes>) -> PooledBody {
    PooledBody::from(bytes.into())
}

fn hello() -> impl Handler {
    service_fn(async |_: Request<Incoming>| text(Response::new(full("hello"))))
}

fn hello_reply() -> impl Handler {
    service_fn(async |request: Request<Incoming>| {
        let (mut parts, _) = request.into_parts();
        text(reply(&mut parts, StatusCode::OK).map(|()| full("hello")))
    })
}

fn items(count: usize) -> Vec<(usize, &'static str)> {
    (0..count).map(|at| (at, "a name")).collect()
}

fn json(count: usize) -> Vec<u8> {
    serde_json::to_vec(&items(count)).expect("serialises")
}

fn json_vec(count: usize) -> impl Handler {
    let items = items(count);
    service_fn(move |_: Request<Incoming>| {
        let json = serde_json::to_vec(&items).expect("serialises");
        async { text(Response::new(full(json))) }
    })
}

fn json_pooled(count: usize, scrub: bool) -> impl Handler {
    let (items, size) = (items(count), json(count).len());
    PoolLayer::new(&pools(scrub)).layer(service_fn(move |_: Request<Incoming>| {
        let mut buf = Pools::current().expect("inside the layer").buf().get(size);
        serde_json::to_writer(&mut buf, &items).expect("serialises");
        async { text(Response::new(buf.into())) }
    }))
}

fn echo() -> impl Handler {
    service_fn(async |request: Request<Incoming>| {
        let body = request
            .into_body()
            .collect()
            .await
            .expect("a whole body")
            .to_bytes();
        text(Response::new(full(body)))
    })
}

fn echo_pooled(scrub: bool) -> impl Handler {
    PoolLayer::new(&pools(scrub)).layer(service_fn(async |request: Request<Incoming>| {
        let pools = Pools::current().expect("inside the layer");
        text(Response::new(
            PooledBody::collect(request.into_body(), &pools)
                .await
                .expect("fits"),
        ))
    }))
}

fn pools(scrub: bool) -> Pools {
    let mut config = PoolConfig::enabled();
    config.scrub = scrub;
    Pools::builder().config(config).build().expect("valid")
}

trait Handler:
    Service<Request<Incoming>, Response = Reply, Error = Infallible, Future: 'static> + Clone + 'static
{
}

impl<S> Handler for S where
    S: Service<Request<Incoming>, Response = Reply, Error = Infallible, Future: 'static>
        + Clone
        + 'static
{
}

/// Prints one row: the medians, and the median of the ratios of neighbouring batches.
fn compare<A: Handler, B: Handler>(
    rounds: usize,
    name: &str,
    request: &str,
    (unpooled, pooled): (
        impl Fn() -> A + Send + 'static,
        impl Fn() -> B + Send + 'static,
    ),
) {
    let mut servers = [Server::start(unpooled), Server::start(pooled)];
    let batch = (4 << 20) / (request.len() + 2_000);
    servers
        .iter_mut()
        .for_each(|server| _ = server.batch(request.as_bytes(), batch));
    let (mut times, mut ratios) = ([vec![], vec![]], vec![]);
    for round in 0..rounds {
        let mut pair = [0.0; 2];
        // Who goes first alternates as well.
        for at in [round % 2, 1 - round % 2] {
            pair[at] = servers[at].batch(request.as_bytes(), batch);
            times[at].push(pair[at]);
        }
        ratios.push(pair[1] / pair[0]);
    }
    let [a, b] = times.map(median);
    println!("| {name} | {a:.2} | {b:.2} | {:.3} |", median(ratios));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Server {
    client: TcpStream,
    cpu: String,
    buffer: Vec<u8>,
}

impl Server {
    fn start<S: Handler>(make: impl Fn() -> S + Send + 'static) -> Self {
        let (send, receive) = mpsc::channel::<(SocketAddr, String)>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("binds");
                let thread = std::fs::read_link("/proc/thread-self").expect("Linux");
                let cpu = format!("/proc/{}/schedstat", thread.display());
                send.send((listener.local_addr().expect("bound"), cpu))
                    .expect("awaited");
                let (socket, _) = listener.accept().await.expect("accepts");
                let _ = socket.set_nodelay(true);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), TowerToHyperService::new(make()))
                    .await;
            });
        });
        let (address, cpu) = receive.recv().expect("the server starts");
        let client = TcpStream::connect(address).expect("connects");
        client.set_nodelay(true).expect("a TCP socket");
        Self {
            client,
            cpu,
            buffer: vec![0; 64 << 10],
        }
    }

    /// CPU microseconds of the server for each of `count` requests.
    fn batch(&mut self, request: &[u8], count: usize) -> f64 {
        let before = self.cpu_ns();
        for _ in 0..count {
            self.client.write_all(request).expect("writes");
            self.response();
        }
        (self.cpu_ns() - before) / count as f64 / 1_000.0
    }

    fn response(&mut self) {
        let mut filled = 0;
        let (head, length) = loop {
            filled += self.client.read(&mut self.buffer[filled..]).expect("reads");
            let text = String::from_utf8_lossy(&self.buffer[..filled.min(1024)]);
            if let Some(end) = text.find("\r\n\r\n") {
                let length = text.split("content-length: ").nth(1).expect("a length");
                let length = length.split('\r').next().expect("a line");
                break (end + 4, length.parse::<usize>().expect("a number"));
            }
        };
        let mut rest = head + length - filled;
        while rest > 0 {
            let room = rest.min(self.buffer.len());
            rest -= self.client.read(&mut self.buffer[..room]).expect("reads");
        }
    }

    fn cpu_ns(&self) -> f64 {
        let stat = std::fs::read_to_string(&self.cpu).expect("Linux");
        stat.split(' ')
            .next()
            .expect("a field")
            .parse()
            .expect("a number")
    }
}
