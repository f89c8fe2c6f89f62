//! A server that may use 256 MiB gets more uploads than fit in there: with a memory budget, without one, and under
//! `axum::serve`. Whoever watches it kills it when it uses more, as the system would.
//!
//! ```text
//! cargo run --release -p stellane-examples --bin memory_budget           # small: 100 uploads of 32 MiB, 20 seconds
//! ulimit -n 40000; … --bin memory_budget full                            # 1000 of 128 MiB, 10 000 idle connections
//! ```
//!
//! Beside the uploads, which axum's `Bytes` collects, there are idle connections, clients that read an answer of 50 MB
//! slowly, and a bystander that asks for `/hello` all the while. Ends with 1 unless the server with the budget lived, the
//! bystander heard nothing but 200, and an upload got through when the load was over.

use std::{
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use futures_util::stream;
use stellane_core::{Components, Runtime, RuntimeConfig, autotune::LimitMode, memory::Budget};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

type BoxError = Box<dyn Error + Send + Sync>;

const MIB: usize = 1 << 20;
/// What the server may use.
const LIMIT: u64 = 256 << 20;
/// What of it bodies may hold: 40 %, as `memory.budget = "auto"` takes in a container.
const BUDGET: u64 = LIMIT / 100 * 40;
/// The load ends after so long at the latest.
const LONGEST: Duration = Duration::from_secs(120);

struct Load {
    uploads: usize,
    bytes: usize,
    idle: usize,
    readers: usize,
}

const SMALL: Load = Load {
    uploads: 100,
    bytes: 32 * MIB,
    idle: 200,
    readers: 20,
};
const FULL: Load = Load {
    uploads: 1000,
    bytes: 128 * MIB,
    idle: 10_000,
    readers: 200,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let done = match arguments.first().map(String::as_str) {
        Some("serve") => runtime.block_on(serve(&arguments[1])).map(|()| true),
        Some("full") => runtime.block_on(compare(&FULL)),
        _ => runtime.block_on(compare(&SMALL)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn app() -> Router {
    // 50 MB in pieces that are made when they are asked for.
    let large = || async {
        let piece = || Ok::<_, BoxError>(Bytes::from(vec![b'x'; 64 << 10]));
        Body::from_stream(stream::iter((0..763).map(move |_| piece())))
    };
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/large", get(large))
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
        .layer(DefaultBodyLimit::disable())
}

/// The server, in a process of its own.
async fn serve(kind: &str) -> Result<(), BoxError> {
    if kind == "axum" {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        axum::serve(listener, app()).await?;
        return Ok(());
    }
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.log.level = "warn".to_owned();
    // It is memory alone that is to decide here, also on a machine that has no time to spare.
    config.limit.mode = LimitMode::Shadow;
    config.memory.budget = match kind {
        "budget" => Budget::Bytes(BUDGET),
        _ => Budget::Off,
    };
    let bound = Runtime::builder()
        .config(config)
        .service(app())
        .build()?
        .bind("127.0.0.1:0")
        .await?;
    println!("{}", bound.local_addr());
    let components = bound.components().clone();
    tokio::spawn(tell(components));
    bound.serve().await?;
    Ok(())
}

/// What the budget counts, on the standard error, as long as it changes.
async fn tell(components: Components) {
    let mut told = components.memory.stats();
    loop {
        sleep(Duration::from_secs(5)).await;
        let stats = components.memory.stats();
        if stats != told {
            eprintln!("{stats:?}");
        }
        told = stats;
    }
}

async fn compare(load: &Load) -> Result<bool, BoxError> {
    println!(
        "{} uploads of {} MiB, {} idle connections, {} slow readers of 50 MB; a server that may use {} MiB\n",
        load.uploads,
        load.bytes / MIB,
        load.idle,
        load.readers,
        LIMIT >> 20
    );
    println!(
        "| server | killed | most memory | uploads 200 / 503 / cut | bystander 200 / others | after it |"
    );
    println!("|---|---|--:|--:|--:|---|");
    let mut good = true;
    for (kind, name) in [
        ("budget", "Stellane, `memory.budget`"),
        ("off", "Stellane, `memory.budget = \"off\"`"),
        ("axum", "`axum::serve`"),
    ] {
        let seen = run(kind, load).await?;
        println!(
            "| {name} | {} | {} MiB | {} / {} / {} | {} / {} | {} |",
            if seen.killed { "yes" } else { "no" },
            seen.most >> 20,
            seen.uploads[0],
            seen.uploads[1],
            seen.uploads[2],
            seen.bystander[0],
            seen.bystander[1],
            if seen.recovered {
                "an upload goes through"
            } else {
                "gone"
            },
        );
        if kind == "budget" {
            good = !seen.killed && seen.bystander[1] == 0 && seen.recovered;
        }
    }
    Ok(good)
}

#[derive(Debug, Default)]
struct Seen {
    killed: bool,
    most: u64,
    uploads: [usize; 3],
    bystander: [usize; 2],
    recovered: bool,
}

/// What the clients have heard so far.
#[derive(Default)]
struct Heard {
    uploads: [AtomicUsize; 3],
    bystander: [AtomicUsize; 2],
    over: AtomicBool,
}

async fn run(kind: &str, load: &Load) -> Result<Seen, BoxError> {
    let mut server = Command::new(env::current_exe()?)
        .args(["serve", kind])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = server.stdout.take().ok_or("no standard output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let address: SocketAddr = line.trim().parse()?;
    let watched = watch(server);

    let heard = Arc::new(Heard::default());
    let mut idle = Vec::new();
    for _ in 0..load.idle {
        idle.push(TcpStream::connect(address).await?);
    }
    let bystander = tokio::spawn(stand_by(address, Arc::clone(&heard)));
    let readers: Vec<_> = (0..load.readers)
        .map(|_| tokio::spawn(read_slowly(address)))
        .collect();
    let piece: Arc<[u8]> = vec![7; 64 << 10].into();
    let uploads: Vec<_> = (0..load.uploads)
        .map(|_| {
            let (heard, piece, bytes) = (Arc::clone(&heard), Arc::clone(&piece), load.bytes);
            tokio::spawn(async move {
                let what = match upload(address, bytes, &piece).await {
                    Some(200) => 0,
                    Some(503) => 1,
                    _ => 2,
                };
                heard.uploads[what].fetch_add(1, Relaxed);
            })
        })
        .collect();
    let end = Instant::now() + LONGEST;
    while uploads.iter().any(|upload| !upload.is_finished())
        && Instant::now() < end
        && !watched.killed.load(Relaxed)
    {
        sleep(Duration::from_millis(50)).await;
    }
    uploads.iter().for_each(|upload| upload.abort());
    readers.iter().for_each(|reader| reader.abort());
    heard.over.store(true, Relaxed);
    let _ = bystander.await;
    drop(idle);
    let killed = watched.killed.load(Relaxed);
    let after = timeout(Duration::from_secs(20), upload(address, 8 * MIB, &piece)).await;
    watched.over.store(true, Relaxed);
    let of = |counts: &[AtomicUsize]| -> Vec<usize> {
        counts.iter().map(|count| count.load(Relaxed)).collect()
    };
    Ok(Seen {
        killed,
        most: watched.most.load(Relaxed),
        uploads: of(&heard.uploads).try_into().unwrap_or_default(),
        bystander: of(&heard.bystander).try_into().unwrap_or_default(),
        recovered: after == Ok(Some(200)),
    })
}

#[derive(Default)]
struct Watched {
    most: AtomicU64,
    killed: AtomicBool,
    over: AtomicBool,
}

/// Kills the server when it uses more than it may, and at the end.
fn watch(mut server: Child) -> Arc<Watched> {
    let watched = Arc::new(Watched::default());
    let at_work = Arc::clone(&watched);
    std::thread::spawn(move || {
        let path = format!("/proc/{}/status", server.id());
        while !at_work.over.load(Relaxed) {
            let used = fs::read_to_string(&path)
                .ok()
                .and_then(|text| rss(&text))
                .unwrap_or(0);
            at_work.most.fetch_max(used, Relaxed);
            if used > LIMIT {
                at_work.killed.store(true, Relaxed);
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = server.kill();
        let _ = server.wait();
    });
    watched
}

fn rss(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

async fn stand_by(address: SocketAddr, heard: Arc<Heard>) {
    while !heard.over.load(Relaxed) {
        let asked = timeout(Duration::from_secs(20), ask(address)).await;
        // Of a server that was just killed nothing is to be heard.
        if !heard.over.load(Relaxed) {
            let what = usize::from(asked != Ok(Some(200)));
            if what > 0 {
                eprintln!("the bystander heard {asked:?}");
            }
            heard.bystander[what].fetch_add(1, Relaxed);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn ask(address: SocketAddr) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    status(&mut stream).await
}

async fn status(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<u16> {
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

/// Sends until it is answered.
async fn upload(address: SocketAddr, bytes: usize, piece: &[u8]) -> Option<u16> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut reads, mut writes) = stream.into_split();
    let head = format!("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n\r\n");
    let sends = async {
        writes.write_all(head.as_bytes()).await?;
        let mut left = bytes;
        while left > 0 {
            let next = piece.len().min(left);
            writes.write_all(&piece[..next]).await?;
            left -= next;
        }
        std::future::pending::<std::io::Result<()>>().await
    };
    tokio::select! {
        status = status(&mut reads) => status,
        _ = sends => status(&mut reads).await,
    }
}

/// 50 MB, 64 KiB at a time.
async fn read_slowly(address: SocketAddr) -> Option<()> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).await.ok()? > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    Some(())
}
