//! Clients that mean harm, over real sockets, against the manager alone and against the preset: a good client is
//! answered all the while, memory stays bounded, and every attacker ends with the reason that it deserves.
//!
//! Alone in its file, since it counts memory. `a_crowd_that_says_nothing` opens 20 000 connections from processes of
//! its own: `cargo test -p stellane-core --test connection_attackers -- --ignored a_crowd`.
#![cfg(all(feature = "full", unix))]

#[path = "support/looks.rs"]
mod looks;
#[path = "support/served.rs"]
mod served;
#[path = "support/until.rs"]
mod until;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use served::served;
use stellane_core::{
    RequestBody, Runtime, RuntimeConfig,
    connection::{CloseReason, ConnectionConfig, ConnectionManager},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use until::until;

/// Attackers of each kind.
const EACH: usize = 25;
/// What one attacker may make the process hold, its own task and buffers in this process included.
const BYTES_EACH: usize = 64 << 10;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static BIG: [u8; 8 << 20] = [b'b'; 8 << 20];

async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body,
{
    let body = match request.uri().path() {
        "/big" => Bytes::from_static(&BIG),
        "/sleep" => {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Bytes::new()
        }
        "/read" => {
            let _ = request.into_body().collect().await;
            Bytes::from_static(b"read")
        }
        _ => Bytes::from_static(b"hello"),
    };
    Ok(Response::new(Full::new(body)))
}

/// Short deadlines.
fn config() -> ConnectionConfig {
    let mut config = ConnectionConfig::default();
    config.first_byte_timeout = Duration::from_millis(1500);
    config.head_timeout = Duration::from_millis(1500);
    config.idle_timeout = Duration::from_millis(1500);
    config.write_timeout = Duration::from_millis(1000);
    config.rate_grace = Duration::from_millis(1000);
    config.park_after = Duration::from_millis(50);
    config
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    SayNothing,
    SlowHead,
    SlowBody,
    SlowRead,
    /// One request, and then its client is gone without a word.
    HalfOpen,
    ResetNew,
    ResetInHead,
    ResetInBody,
    ResetWhileHandled,
    ResetWhileAnswered,
    ResetParked,
    /// A whole request, and at once a reset.
    ResetStorm,
}

impl Attack {
    const ALL: [Self; 12] = [
        Self::SayNothing,
        Self::SlowHead,
        Self::SlowBody,
        Self::SlowRead,
        Self::HalfOpen,
        Self::ResetNew,
        Self::ResetInHead,
        Self::ResetInBody,
        Self::ResetWhileHandled,
        Self::ResetWhileAnswered,
        Self::ResetParked,
        Self::ResetStorm,
    ];

    fn reason(self) -> CloseReason {
        match self {
            Self::SayNothing => CloseReason::FirstByteTimeout,
            Self::SlowHead => CloseReason::HeadTimeout,
            Self::SlowBody => CloseReason::SlowBody,
            Self::SlowRead => CloseReason::SlowRead,
            Self::HalfOpen => CloseReason::IdleTimeout,
            _ => CloseReason::IoError,
        }
    }

    async fn run(self, address: SocketAddr) {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("sets");
        let first: &[u8] = match self {
            Self::SayNothing | Self::ResetNew => b"",
            Self::SlowHead => b"G",
            Self::ResetInHead => b"GET / HTTP/1.1\r\nhost",
            Self::SlowBody | Self::ResetInBody => {
                b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc"
            }
            Self::SlowRead | Self::ResetWhileAnswered => b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n",
            Self::ResetWhileHandled => b"GET /sleep HTTP/1.1\r\nhost: x\r\n\r\n",
            Self::HalfOpen | Self::ResetParked | Self::ResetStorm => {
                b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
            }
        };
        stream.write_all(first).await.expect("writes");
        match self {
            Self::SayNothing => {
                let _ = stream.read(&mut [0; 9]).await;
            }
            // Until the server has had enough.
            Self::SlowHead | Self::SlowBody => {
                while stream.write_all(b"E").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            // The server's end is not seen by somebody who does not read.
            Self::SlowRead => tokio::time::sleep(Duration::from_secs(8)).await,
            Self::HalfOpen => {
                let mut got = Vec::new();
                let _ = stream.read_to_end(&mut got).await;
            }
            Self::ResetParked => {
                stream.read_buf(&mut Vec::new()).await.expect("an answer");
                tokio::time::sleep(Duration::from_millis(500)).await;
                reset(&stream);
            }
            Self::ResetStorm => reset(&stream),
            _ => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                reset(&stream);
            }
        }
    }
}

/// A connection leaves the table a moment before its end is counted.
fn all_counted(manager: &ConnectionManager) -> bool {
    let stats = manager.stats();
    stats.closed_total() == stats.accepted_total
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .expect("sets");
}

/// Says whether the machine's memory was scarce meanwhile, since the preset closes idle connections then.
async fn watch_memory(scarce: Arc<AtomicBool>) {
    loop {
        let used = stellane_metrics::Machine::memory_used();
        scarce.fetch_or(used.is_some_and(|used| used > 0.8), Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks again and again, on one connection and on new ones, until it is told to end; how often.
async fn good_client(address: SocketAddr, end: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut end = std::pin::pin!(end);
    let mut answers = 0;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    loop {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("writes");
        let mut got = Vec::new();
        while !got.ends_with(b"hello") {
            let n = stream.read_buf(&mut got).await.expect("reads");
            assert!(n > 0, "closed after {answers} answers");
        }
        answers += 1;
        tokio::select! {
            _ = &mut end => return answers,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Lets all kinds of attackers loose at once.
async fn withstand(manager: &ConnectionManager, address: SocketAddr) {
    // What is made once.
    drop(TcpStream::connect(address).await.expect("connects"));
    until(manager, "ready", |m| m.stats().closed_total() == 1).await;
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);

    let scarce = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch_memory(Arc::clone(&scarce)));
    let (end, told) = tokio::sync::oneshot::channel();
    let good = tokio::spawn(good_client(address, told));
    let mut attackers = JoinSet::new();
    for _ in 0..EACH {
        for attack in Attack::ALL {
            attackers.spawn(attack.run(address));
        }
    }
    while let Some(attacker) = attackers.join_next().await {
        attacker.expect("no panic");
    }
    until(manager, "rid of them", |m| m.stats().open == 1).await;
    end.send(()).expect("still asking");
    let answers = good.await.expect("answered to the end");
    until(manager, "quiet", all_counted).await;
    watching.abort();

    let stats = manager.stats();
    let reclaimed = stats.closed(CloseReason::Reclaimed);
    let scarce = scarce.load(Relaxed);
    assert!(scarce || reclaimed == 0, "for nothing: {stats:?}");
    let mut expected = vec![0; CloseReason::ALL.len()];
    for attack in Attack::ALL {
        expected[attack.reason() as usize] += EACH as u64;
    }
    // The good client, and the one before.
    expected[CloseReason::ClientClosed as usize] += 2;
    let mut counted: Vec<_> = CloseReason::ALL.iter().map(|r| stats.closed(*r)).collect();
    if reclaimed > 0 {
        // The idle ones went before their time, whichever of the two they are.
        for all in [&mut counted, &mut expected] {
            all[CloseReason::IdleTimeout as usize] +=
                std::mem::take(&mut all[CloseReason::Reclaimed as usize])
                    + std::mem::take(&mut all[CloseReason::FirstByteTimeout as usize]);
        }
    }
    assert_eq!(counted, expected, "{stats:?}");
    assert_eq!(stats.accepted_total, stats.closed_total());
    assert!(answers > 50, "the good client had {answers} answers");
    assert_eq!(stats.requests_in_flight, 0);

    let held = PEAK.load(Relaxed) - before;
    let bound = EACH * Attack::ALL.len() * BYTES_EACH;
    println!("{answers} answers, {held} bytes at most");
    assert!(held < bound, "{held} bytes for {bound}");
    let left = LIVE.load(Relaxed).saturating_sub(before);
    assert!(left < 1 << 20, "{left} bytes are left");
}

/// One after the other: memory is counted for the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_client_is_answered_and_every_attacker_ends_with_its_reason() {
    let service = tower::service_fn(answer);
    let (manager, address) = served(config(), service, |listener| listener).await;
    withstand(&manager, address).await;

    let mut config = RuntimeConfig::default();
    config.connection = self::config();
    // The limit has its own tests: here nobody is refused for the sake of those who are served.
    config.limit.initial = 500;
    config.limit.min = 500;
    let runtime = Runtime::builder()
        .config(config)
        .service(tower::service_fn(answer::<RequestBody>))
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let (manager, address) = (bound.components().connections.clone(), bound.local_addr());
    let serving = tokio::spawn(bound.serve());
    withstand(&manager, address).await;
    serving.abort();
}

/// Set in a process that is part of the crowd: where to.
const CROWD: &str = "STELLANE_TEST_CROWD";
const PROCESSES: usize = 4;
const CROWD_EACH: usize = 5000;

/// What a process of the crowd does.
#[test]
#[ignore = "run by a_crowd_that_says_nothing, in processes of its own"]
fn crowd() {
    let Ok(address) = std::env::var(CROWD) else {
        return;
    };
    let sockets: Vec<_> = (0..CROWD_EACH)
        .map(|_| std::net::TcpStream::connect(&address).expect("connects"))
        .collect();
    // Until the server has closed all of them; what a full one says is not looked at.
    for mut socket in sockets {
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "20 000 connections, about 20 seconds"]
async fn a_crowd_that_says_nothing() {
    let mut config = config();
    // All are there before the first one ends.
    config.first_byte_timeout = Duration::from_secs(10);
    // As many as there may be open files.
    config.max_connections = 0;
    let (manager, address) = served(config, tower::service_fn(answer), |listener| listener).await;
    let resident = resident_kib();
    let (end, told) = tokio::sync::oneshot::channel();
    let good = tokio::spawn(good_client(address, told));
    let crowd: Vec<_> = (0..PROCESSES)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "crowd", "--ignored", "-q"])
                .env(CROWD, address.to_string())
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("starts")
        })
        .collect();
    let all = (PROCESSES * CROWD_EACH) as u64;
    let (mut open, mut held) = (0, 0);
    while manager.stats().accepted_total < all + 1 || manager.stats().open > 1 {
        open = open.max(manager.stats().open);
        held = held.max(resident_kib() - resident);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for mut process in crowd {
        let ended = tokio::task::spawn_blocking(move || process.wait()).await;
        assert!(ended.expect("waits").expect("ends").success());
    }
    end.send(()).expect("still asking");
    let answers = good.await.expect("answered to the end");
    until(&manager, "quiet", all_counted).await;
    let stats = manager.stats();
    println!("{answers} answers, {open} open and {held} KiB more at most: {stats:?}");
    // Beyond the limit of open files, the oldest make room, or the newest are refused.
    let silenced: u64 = [
        CloseReason::FirstByteTimeout,
        CloseReason::Reclaimed,
        CloseReason::Refused,
    ]
    .iter()
    .map(|reason| stats.closed(*reason))
    .sum();
    assert_eq!(
        (silenced, stats.closed(CloseReason::ClientClosed)),
        (all, 1)
    );
    assert_eq!(stats.closed_total(), all + 1);
    assert!(answers > 100, "the good client had {answers} answers");
    assert!(held < 64 << 10, "{held} KiB");
}

fn resident_kib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok());
    pages.unwrap_or(0) * 4
}
