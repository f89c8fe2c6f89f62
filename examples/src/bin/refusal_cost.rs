//! What a refusal of the preset costs, by protocol and by what stands around the limit: CPU time of the server for each,
//! user's and system's.
//!
//! Run with `cargo run --release -p stellane-examples --bin refusal_cost [rounds]`. The server is a process of its own on
//! the first core, the clients are on the others (by `taskset`, where there is one). Its limit is one place, which is held,
//! so that every request is refused; each of 1000 connections asks every 100 ms, by its own clock: who asks again at once
//! waits instead. `hello` is what a request costs that is answered, over the same connections: for what else they cost.

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{BoxError, RequestBody, Runtime, RuntimeConfig, autotune::AlgorithmKind};
use stellane_examples::measure::{self, Server, TICK_MICROS};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower::util::MapResponseLayer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The preset as it is; with somebody who is asked for an answer; with a layer outside of the limit, such as an access log,
/// that does nothing; and with a place for everybody.
const SERVERS: [&str; 4] = ["as it is", "on_refusal", "outer layer", "hello"];
const PROTOCOLS: [&str; 3] = ["HTTP/1", "HTTP/2", "gRPC"];
const CONNECTIONS: u32 = 1000;
/// Longer than what is taken for asking again at once.
const PAUSE: Duration = Duration::from_millis(100);
const LASTS: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    measure::run(serve, compare, 3, "refusal_cost [rounds]")
}

fn compare(rounds: usize) -> Result<(), BoxError> {
    measure::pin("1-");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!(
        "| server | protocol | answers/s | CPU µs each | of them the system's |\n|---|---|--:|--:|--:|"
    );
    for _ in 0..rounds {
        for name in SERVERS {
            for protocol in PROTOCOLS {
                runtime.block_on(round(name, protocol))?;
            }
        }
    }
    Ok(())
}

async fn round(name: &str, protocol: &str) -> Result<(), BoxError> {
    let server = Server::start(name, &[])?;
    if name != "hello" {
        // Who takes the place, for good.
        let address = server.address;
        tokio::spawn(async move {
            let mut client = Client::new(address, "HTTP/1").await?;
            client.ask(Method::GET, "/hold").await
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::new(server.address, protocol).await?);
    }
    let before = server.cpu()?;
    let answers = load(clients, protocol).await?;
    let after = server.cpu()?;
    let micros = |ticks: u64| ticks as f64 * TICK_MICROS / answers.max(1) as f64;
    let system = after.1 - before.1;
    println!(
        "| {name} | {protocol} | {:.0} | {:.2} | {:.2} |",
        answers as f64 / LASTS.as_secs_f64(),
        micros(after.0 - before.0 + system),
        micros(system),
    );
    Ok(())
}

/// How many answers there were.
async fn load(clients: Vec<Client>, protocol: &str) -> Result<u64, BoxError> {
    let method = match protocol {
        "gRPC" => Method::POST,
        _ => Method::GET,
    };
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (mut client, number) in clients.into_iter().zip(0_u32..) {
        let method = method.clone();
        let mut next = start + PAUSE.mul_f64(f64::from(number) / f64::from(CONNECTIONS));
        tasks.spawn(async move {
            let mut answers = 0_u64;
            while next < start + LASTS {
                sleep_until(next).await;
                client.ask(method.clone(), "/").await?;
                answers += 1;
                next = (next + PAUSE).max(Instant::now());
            }
            Ok::<_, BoxError>(answers)
        });
    }
    tasks.join_all().await.into_iter().sum()
}

enum Client {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn new(address: SocketAddr, protocol: &str) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        Ok(if protocol == "HTTP/1" {
            let (client, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Self::Http1(client)
        } else {
            let (client, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Self::Http2(client)
        })
    }

    async fn ask(&mut self, method: Method, path: &str) -> Result<(), BoxError> {
        let mut request = Request::new(Empty::new());
        if method == Method::POST {
            let grpc = http::HeaderValue::from_static("application/grpc");
            request.headers_mut().insert("content-type", grpc);
        }
        *request.method_mut() = method;
        let response = match self {
            Self::Http1(client) => {
                *request.uri_mut() = path.parse()?;
                let host = http::HeaderValue::from_static("localhost");
                request.headers_mut().insert("host", host);
                client.ready().await?;
                client.send_request(request).await?
            }
            Self::Http2(client) => {
                *request.uri_mut() = format!("http://localhost{path}").parse()?;
                client.ready().await?;
                client.send_request(request).await?
            }
        };
        let known = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
        if !known.contains(&response.status()) {
            return Err(io::Error::other(response.status().to_string()).into());
        }
        response.into_body().collect().await?;
        Ok(())
    }
}

fn serve(name: &str) -> Result<(), BoxError> {
    measure::pin("0");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut config = RuntimeConfig::from_env()?;
        config.server.admin_address = String::new();
        if name != "hello" {
            config.limit.algorithm = AlgorithmKind::Fixed;
            (config.limit.initial, config.limit.min, config.limit.max) = (1, 1, 1);
        }
        let mut builder = Runtime::builder().config(config);
        if name == "on_refusal" {
            builder = builder.on_refusal(|_, _| None);
        } else if name == "outer layer" {
            builder = builder.outer_layer(MapResponseLayer::new(|response| response));
        }
        let runtime = builder
            .service(tower::service_fn(
                |request: Request<RequestBody>| async move {
                    if request.uri().path() == "/hold" {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, std::convert::Infallible>(Response::new("hello".to_owned()))
                },
            ))
            .build()?;
        let bound = runtime.bind("127.0.0.1:0").await?;
        println!("{}", bound.local_addr());
        bound.serve().await?;
        Ok(())
    })
}
