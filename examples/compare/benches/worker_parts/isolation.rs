use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use stellane_pool::{WorkerPool, WorkerPoolConfig, WorkerPoolLayer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Offload, burn, median};

const HEAVY: Duration = Duration::from_millis(20);
/// What is measured, and how long before: everybody connects at once.
const TURN: Duration = Duration::from_millis(700);
const WARM_UP: Duration = Duration::from_millis(150);

/// 32 clients that ask for a greeting, about 1000 times a second in all, while 8 ask for work of 20 ms as fast as they
/// are answered. One knob: where the work runs. Clients and server share the machine.
///
/// The variants take short turns and the median turn counts, so that whatever else the machine is at meets all.
/// `ISOLATION_PAUSE_MS=0` lets the greeters ask without a pause, until the CPUs are full: what is left for the work?
/// `ISOLATION_ROUNDS` says how many turns each has, `ISOLATION_ONLY` which have any: those with this in their name.
pub(crate) fn run() {
    burn(Duration::from_millis(1));
    let rounds = std::env::var("ISOLATION_ROUNDS").ok();
    let rounds = rounds.and_then(|n| n.parse().ok()).unwrap_or(5);
    let only = std::env::var("ISOLATION_ONLY").unwrap_or_default();
    let mut variants = variants();
    variants.retain(|v| matches!(v.work, Work::None) || v.name.contains(&only));
    let mut turns: Vec<Vec<Measured>> = variants.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (variant, turns) in variants.iter().zip(&mut turns) {
            turns.push(measure(&variant.work));
        }
    }
    println!("\n| the work runs | hello p50 | p99 | worst | p99 / unloaded | work per second |");
    println!("|---|---|---|---|---|---|");
    let of = |turns: &[Measured], value: &dyn Fn(&Measured) -> f64| {
        median(turns.iter().map(value).collect())
    };
    let unloaded = of(&turns[0], &|turn| turn.quantile(0.99));
    for (variant, turns) in variants.iter().zip(&turns) {
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|q| of(turns, &|turn| turn.quantile(q)));
        let rate = of(turns, &|turn| turn.heavy as f64 / TURN.as_secs_f64());
        println!(
            "| {} | {p50:.2} ms | {p99:.2} ms | {worst:.1} ms | {:.1} | {rate:.0} |",
            variant.name,
            p99 / unloaded
        );
    }
}

struct Variant {
    name: String,
    work: Work,
}

enum Work {
    None,
    /// In the handler, by name, with so many threads and that `nice`.
    Offload(&'static str, usize, u8),
    /// By the layer, on a pool with the default settings but for `nice`.
    Layer(u8),
}

fn variants() -> Vec<Variant> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let variant = |name: String, work| Variant { name, work };
    let mut all = vec![variant("nowhere".to_owned(), Work::None)];
    for name in &Offload::NAMES[..4] {
        all.push(variant(
            format!("{name}, {cpus} threads"),
            Work::Offload(name, cpus, 0),
        ));
    }
    for threads in [cpus.div_ceil(2), cpus, 2 * cpus] {
        for nice in [0, 10, 19] {
            all.push(variant(
                format!("stellane, {threads} threads, `nice = {nice}`"),
                Work::Offload("stellane", threads, nice),
            ));
        }
    }
    for nice in [10, 19] {
        all.push(variant(
            format!("the stellane layer, `nice = {nice}`"),
            Work::Layer(nice),
        ));
    }
    all
}

struct Measured {
    hello: Vec<Duration>,
    heavy: usize,
}

impl Measured {
    /// In milliseconds.
    fn quantile(&self, q: f64) -> f64 {
        self.hello[((self.hello.len() - 1) as f64 * q) as usize].as_secs_f64() * 1000.0
    }
}

fn measure(work: &Work) -> Measured {
    let server = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(match work {
            Work::Offload("spawn_blocking", threads, _) => *threads,
            _ => 512,
        })
        .enable_all()
        .build()
        .expect("a runtime");
    let app = Router::new().route("/hello", get(|| async { "hello" }));
    let app = match *work {
        Work::None => app,
        Work::Layer(nice) => {
            let mut config = WorkerPoolConfig::default();
            config.nice = nice;
            let pool = WorkerPool::builder().config(config).build().expect("valid");
            let work = get(|| async {
                burn(HEAVY);
                "done"
            });
            app.route("/work", work.layer(WorkerPoolLayer::new(&pool)))
        }
        Work::Offload(name, threads, nice) => {
            let offload = Arc::new(Offload::new(name, threads, nice));
            let work = move || {
                let offload = Arc::clone(&offload);
                async move {
                    offload.run(|| burn(HEAVY)).await;
                    Ok::<_, Infallible>("done")
                }
            };
            app.route("/work", get(work))
        }
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
        let counts = Instant::now() + WARM_UP;
        let pause = std::env::var("ISOLATION_PAUSE_MS").ok();
        let pause = Duration::from_millis(pause.and_then(|ms| ms.parse().ok()).unwrap_or(32));
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
                        if began >= counts {
                            times.push(began.elapsed());
                        }
                        if !pause.is_zero() {
                            tokio::time::sleep(pause).await;
                        }
                    }
                    times
                })
            })
            .collect();
        let heavy: Vec<_> = (0..if matches!(work, Work::None) { 0 } else { 8 })
            .map(|_| {
                let stop = Arc::clone(&stop);
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    let mut done = 0;
                    while !stop.load(Relaxed) {
                        client.ask("/work").await;
                        done += usize::from(Instant::now() >= counts);
                    }
                    done
                })
            })
            .collect();
        tokio::time::sleep(WARM_UP + TURN).await;
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
