use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use stellane_pool::{WorkerPool, WorkerPoolLayer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Offload, burn};

const HEAVY: Duration = Duration::from_millis(20);
const TIME: Duration = Duration::from_secs(3);

/// 32 clients that ask for a greeting, about 1000 times a second in all, while 8 ask for work of 20 ms as fast as they
/// are answered. One knob: where the work runs. Clients and server share the machine.
pub(crate) fn run() {
    burn(Duration::from_millis(1));
    println!("\n| the work runs | hello p50 | p99 | p99.9 | p99 / unloaded | work per second |");
    println!("|---|---|---|---|---|---|");
    let unloaded = measure("unloaded", None, 0);
    print("nothing", &unloaded, &unloaded);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for name in Offload::NAMES {
        let measured = measure(name, Some(threads), 10);
        print(name, &measured, &unloaded);
    }
    for nice in [0, 19] {
        let measured = measure("stellane", Some(threads), nice);
        print(&format!("stellane, `nice = {nice}`"), &measured, &unloaded);
    }
    let measured = measure("stellane layer", Some(threads), 10);
    print("stellane, the layer on the route", &measured, &unloaded);
    print("nothing, again", &measure("unloaded", None, 0), &unloaded);
}

struct Measured {
    hello: Vec<Duration>,
    heavy: usize,
}

fn print(name: &str, measured: &Measured, unloaded: &Measured) {
    let quantile = |m: &Measured, q: f64| m.hello[((m.hello.len() - 1) as f64 * q) as usize];
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| quantile(measured, q));
    let ratio = p99.as_secs_f64() / quantile(unloaded, 0.99).as_secs_f64();
    let rate = measured.heavy as f64 / TIME.as_secs_f64();
    println!("| {name} | {p50:.2?} | {p99:.2?} | {p999:.2?} | {ratio:.1} | {rate:.0} |");
}

fn measure(name: &str, threads: Option<usize>, nice: u8) -> Measured {
    let server = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(512)
        .enable_all()
        .build()
        .expect("a runtime");
    let app = Router::new().route("/hello", get(|| async { "hello" }));
    let app = if name == "stellane layer" {
        let pool = WorkerPool::builder().build().expect("valid");
        let work = get(|| async {
            burn(HEAVY);
            "done"
        });
        app.route("/work", work.layer(WorkerPoolLayer::new(&pool)))
    } else {
        let offload = Arc::new(Offload::new(name, threads.unwrap_or(1), nice));
        let work = move || {
            let offload = Arc::clone(&offload);
            async move {
                offload.run(|| burn(HEAVY)).await;
                Ok::<_, Infallible>("done")
            }
        };
        app.route("/work", get(work))
    };
    let listener = server
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    server.spawn(async move { axum::serve(listener, app).await });

    let clients = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let measured = clients.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let hello: Vec<_> = (0..32)
            .map(|i| {
                let stop = Arc::clone(&stop);
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    let mut times = Vec::new();
                    // Spread out, so that some are always there to notice a stall.
                    tokio::time::sleep(Duration::from_millis(i)).await;
                    while !stop.load(Relaxed) {
                        let began = Instant::now();
                        client.ask("/hello").await;
                        times.push(began.elapsed());
                        tokio::time::sleep(Duration::from_millis(32)).await;
                    }
                    times
                })
            })
            .collect();
        let heavy: Vec<_> = (0..if threads.is_some() { 8 } else { 0 })
            .map(|_| {
                let stop = Arc::clone(&stop);
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    let mut done = 0;
                    while !stop.load(Relaxed) {
                        client.ask("/work").await;
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        tokio::time::sleep(TIME).await;
        stop.store(true, Relaxed);
        let mut measured = Measured {
            hello: Vec::new(),
            heavy: 0,
        };
        for client in hello {
            measured
                .hello
                .extend(client.await.expect("it does not panic"));
        }
        for client in heavy {
            measured.heavy += client.await.expect("it does not panic");
        }
        measured.hello.sort();
        measured
    });
    server.shutdown_background();
    measured
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a server");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            buffer: vec![0; 4096],
        }
    }

    /// The answers are short: one read has all of it.
    async fn ask(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        self.stream
            .write_all(request.as_bytes())
            .await
            .expect("a socket");
        let read = self.stream.read(&mut self.buffer).await.expect("an answer");
        assert!(
            self.buffer[..read].starts_with(b"HTTP/1.1 200"),
            "an answer"
        );
    }
}
