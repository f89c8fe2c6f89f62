//! Parking can't be seen by a client: whatever it sends, in whatever pieces and pauses, the bytes it gets are
//! those of a manager that never parks.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::random::Random;
use crate::served::served;
use crate::until::until;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use stellane_core::connection::{ConnectionConfig, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longer than a sweep, so that whatever may be parked is parked.
const PAUSE: Duration = Duration::from_millis(230);
const SEEDS: u64 = 96;

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Upgrade,
    HalfClose,
}

/// What a client does.
#[derive(Debug)]
enum Step {
    Send(Vec<u8>),
    Pause,
}

/// Requests of every kind, and after how many bytes each has been sent; the last says close, or asks for an
/// upgrade, or nothing; the latter two end by a half-close.
fn requests(random: &mut Random) -> (Vec<u8>, Vec<usize>, End) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for n in 0..2 + random.below(4) {
        let path = ["/now", "/later"][random.below(2)];
        let text = "x".repeat(random.below(40));
        match random.below(3) {
            0 => bytes.extend(format!("GET {path}?{n} HTTP/1.1\r\nhost: x\r\n\r\n").bytes()),
            1 => bytes.extend(
                format!(
                    "POST {path}?{n} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                )
                .bytes(),
            ),
            _ => bytes.extend(
                format!(
                    "POST {path}?{n} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
                     2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
                )
                .bytes(),
            ),
        }
        ends.push(bytes.len());
    }
    let end = [End::Close, End::Close, End::Upgrade, End::HalfClose][random.below(4)];
    match end {
        End::Close => {
            bytes.extend(b"GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        }
        End::Upgrade => bytes.extend(
            b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
        ),
        End::HalfClose => return (bytes, ends, end),
    }
    ends.push(bytes.len());
    (bytes, ends, end)
}

/// Requests, cut into pieces at random places, with pauses between some.
fn script(seed: u64) -> (Vec<Step>, End) {
    let random = &mut Random::new(seed);
    let (bytes, _, end) = requests(random);
    let mut steps = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        // A whole request, or a piece.
        let whole = rest
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .map_or(rest.len(), |at| at + 4);
        let n = match random.below(8) {
            0 => rest.len(),
            1 | 2 => 1 + random.below(rest.len().min(60)),
            _ => whole,
        };
        let (piece, after) = rest.split_at(n.min(rest.len()));
        steps.push(Step::Send(piece.to_vec()));
        rest = after;
        if random.below(4) > 0 {
            steps.push(Step::Pause);
        }
    }
    (steps, end)
}

async fn start(park: bool) -> (ConnectionManager, SocketAddr) {
    let mut config = ConnectionConfig::default();
    config.park = park;
    config.park_after = Duration::ZERO;
    served(config, tower::service_fn(answer), |listener| listener).await
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/upgrade" {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = hyper_util::rt::TokioIo::new(upgrade.await.expect("upgraded"));
            let mut buffer = [0; 64];
            // The pause is where a connection that was not upgraded would be parked.
            while let Ok(n @ 1..) = io.read(&mut buffer).await {
                tokio::time::sleep(PAUSE).await;
                io.write_all(&buffer[..n]).await.expect("writes");
            }
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert(header::UPGRADE, header::HeaderValue::from_static("echo"));
        return Ok(response);
    }
    let line = format!("{} {} ", request.method(), request.uri());
    if request.uri().path() == "/later" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let body = request
        .into_body()
        .collect()
        .await
        .map_or_else(|e| e.to_string().into(), |b| b.to_bytes());
    Ok(Response::new(Full::new(
        [line.as_bytes(), &body[..]].concat().into(),
    )))
}

/// Everything the client got, without the lines that tell the time.
async fn transcript(address: SocketAddr, seed: u64) -> String {
    let (steps, end) = script(seed);
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.set_nodelay(true).expect("sets");
    let (mut reader, mut writer) = stream.split();
    let send = async {
        for step in steps {
            match step {
                Step::Send(bytes) => writer.write_all(&bytes).await.expect("writes"),
                Step::Pause => tokio::time::sleep(PAUSE).await,
            }
        }
        if end == End::Upgrade {
            tokio::time::sleep(PAUSE).await;
            writer
                .write_all(b"behind the upgrade")
                .await
                .expect("writes");
        }
        if end != End::Close {
            // hyper takes the end for a client that is gone, and drops what it has not answered.
            tokio::time::sleep(4 * PAUSE).await;
            writer.shutdown().await.expect("half-closes");
        }
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(reader.read_to_end(&mut got), send);
    read.expect("an end, not a reset");
    timeless(got)
}

fn timeless(got: Vec<u8>) -> String {
    let text = String::from_utf8(got).expect("text");
    text.split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: "))
        .collect()
}

/// Everything a client gets that sends so many bytes at once, in simulated time, with a pause behind each
/// piece; and how often its connection came back from being parked. Who leaves early says so in the moment of
/// the last piece, while its answer may still be on its way.
async fn simulated(park: bool, pieces: Vec<&[u8]>, upgraded: bool, early: bool) -> (String, u64) {
    let mut config = ConnectionConfig::default();
    config.park = park;
    config.park_after = Duration::ZERO;
    // A byte at a time takes longer than servers allow.
    config.head_timeout = Duration::ZERO;
    config.min_body_rate_bytes = 0;
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let (client, server) = tokio::io::duplex(1 << 16);
    tokio::spawn(manager.serve_connection(server, None, tower::service_fn(answer)));
    let (mut reader, mut writer) = tokio::io::split(client);
    let send = async {
        let count = pieces.len();
        for (n, piece) in pieces.into_iter().enumerate() {
            // Not taken any more after `Connection: close`.
            let _ = writer.write_all(piece).await;
            if n + 1 < count || !early {
                tokio::time::sleep(PAUSE).await;
            }
        }
        if upgraded {
            writer
                .write_all(b"behind the upgrade")
                .await
                .expect("upgraded");
        }
        let _ = writer.shutdown().await;
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(reader.read_to_end(&mut got), send);
    read.expect("an end, not a reset");
    (timeless(got), manager.stats().unparked_total)
}

/// A pause behind every byte, so that the connection is parked wherever that is allowed at all, exactly once
/// between every two requests; and the client's end at every place, whatever is unanswered then.
#[tokio::test(start_paused = true)]
async fn parked_at_every_legal_point_and_ended_at_every_point_a_connection_says_the_same() {
    for seed in 0..40 {
        let random = &mut Random::new(seed);
        let (bytes, ends, end) = requests(random);
        let upgraded = end == End::Upgrade;
        let each = || bytes.chunks(1).collect::<Vec<_>>();
        let (parked, times) = simulated(true, each(), upgraded, false).await;
        let (kept, never) = simulated(false, each(), upgraded, false).await;
        assert_eq!(parked, kept, "seed {seed}");
        assert_eq!(kept.contains("behind the upgrade"), upgraded, "seed {seed}");
        let between = ends.len() as u64 - 1;
        assert_eq!((times, never), (between, 0), "seed {seed}");

        // Whole requests behind each other at once, and the end in the middle of whatever it is.
        for _ in 0..30 {
            let gone = 1 + random.below(bytes.len());
            let cut = ends[random.below(ends.len())].min(gone);
            let pieces = || {
                let (first, rest) = bytes[..gone].split_at(cut);
                [first, rest].into_iter().filter(|piece| !piece.is_empty())
            };
            let (parked, _) = simulated(true, pieces().collect(), false, true).await;
            let (kept, _) = simulated(false, pieces().collect(), false, true).await;
            // A request that comes together with the client's end is answered or not: hyper, if it has the
            // connection, sees the end first.
            assert!(
                parked.starts_with(&kept),
                "seed {seed}: {cut}, {gone} of {}: {parked:?}, {kept:?}",
                bytes.len()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_the_same_bytes_whether_its_connection_is_parked_or_not() {
    let (parking, parked) = start(true).await;
    let (keeping, kept) = start(false).await;
    let runs: Vec<_> = (0..SEEDS)
        .map(|seed| {
            tokio::spawn(
                async move { tokio::join!(transcript(parked, seed), transcript(kept, seed)) },
            )
        })
        .collect();
    for (seed, run) in runs.into_iter().enumerate() {
        let (parked, kept) = run.await.expect("no panic");
        assert!(!kept.is_empty(), "seed {seed}");
        assert_eq!(parked, kept, "seed {seed}: {:?}", script(seed as u64));
    }
    // Neither was idle: the test would prove nothing.
    assert!(
        parking.stats().unparked_total >= SEEDS / 2,
        "{:?}",
        parking.stats()
    );
    assert_eq!(keeping.stats().unparked_total, 0);
}

/// Allocators take long for it, and those that come after a wave have nothing to give back.
#[tokio::test]
async fn a_wave_is_purged_once_however_many_connections_come_later() {
    let purged = Arc::new(AtomicUsize::new(0));
    let manager = ConnectionManager::builder()
        .purge_hook({
            let purged = Arc::clone(&purged);
            move || {
                purged.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build()
        .expect("valid");
    manager.set_park_after(Duration::ZERO);
    let hello = tower::service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let (mut first, server) = tokio::io::duplex(1024);
    tokio::spawn(manager.serve_connection(server, None, hello));
    let get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    first.write_all(get).await.expect("writes");
    let once = |manager: &ConnectionManager| {
        manager.stats().parked == 1 && purged.load(Ordering::Relaxed) == 1
    };
    until(&manager, "parked and purged", once).await;
    let later: Vec<_> = (0..20)
        .map(|_| {
            let (client, server) = tokio::io::duplex(1024);
            tokio::spawn(manager.serve_connection(server, None, hello));
            client
        })
        .collect();
    tokio::time::sleep(PAUSE).await;
    assert_eq!(manager.stats().open, 21);
    // They may be a second wave; they are not twenty.
    let purged = purged.load(Ordering::Relaxed);
    assert!(purged <= 2, "{purged} times");
    drop(later);
}

#[tokio::test]
async fn what_a_drain_closes_is_given_back_while_others_go_on() {
    let purged = Arc::new(AtomicUsize::new(0));
    let hook = Arc::clone(&purged);
    let mut config = ConnectionConfig::default();
    config.park = false;
    config.drain_idle = Duration::from_millis(50);
    let manager = ConnectionManager::builder()
        .config(config)
        .purge_hook(move || {
            hook.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .expect("valid");
    let service = tower::service_fn(async |request: Request<Incoming>| {
        if request.uri().path() == "/long" {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let mut clients = Vec::new();
    for path in ["/long", "/"] {
        let (mut client, server) = tokio::io::duplex(1024);
        tokio::spawn(manager.serve_connection(server, None, service));
        let get = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        client.write_all(get.as_bytes()).await.expect("writes");
        clients.push(client);
    }
    let asked = |m: &ConnectionManager| m.stats().active == 1 && m.stats().idle == 1;
    until(&manager, "one works and one is idle", asked).await;
    assert_eq!(purged.load(Ordering::Relaxed), 0);
    let drain = tokio::spawn({
        let manager = manager.clone();
        async move { manager.drain(Duration::from_secs(600)).await }
    });
    until(&manager, "purged while one goes on", |m| {
        m.stats().open == 1 && purged.load(Ordering::Relaxed) > 0
    })
    .await;
    drain.abort();
}

#[test]
fn a_wave_is_purged_on_the_worker_as_well_where_block_on_serves() {
    let (purged, threads) = std::sync::mpsc::channel();
    let manager = ConnectionManager::builder()
        .purge_hook(move || {
            let _ = purged.send(std::thread::current().id());
        })
        .build()
        .expect("valid");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let serve = async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("binds");
        let address = listener.local_addr().expect("bound");
        let client = tokio::spawn(async move {
            let mut client = TcpStream::connect(address).await.expect("connects");
            let get = client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
            get.expect("writes");
            tokio::time::sleep(Duration::from_secs(3)).await;
            std::thread::current().id()
        });
        tokio::select! {
            served = manager.serve(listener, tower::service_fn(answer)) => panic!("{served:?}"),
            worker = client => worker.expect("no panic"),
        }
    };
    let worker = runtime.block_on(serve);
    let threads: Vec<_> = threads.try_iter().collect();
    assert!(threads.contains(&worker), "{threads:?}");
    assert!(
        threads.contains(&std::thread::current().id()),
        "{threads:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wave_is_purged_on_every_worker_once_and_on_one_at_a_time() {
    let (purged, threads) = std::sync::mpsc::channel();
    let at_it = AtomicUsize::new(0);
    let manager = ConnectionManager::builder()
        .purge_hook(move || {
            let others = at_it.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            at_it.fetch_sub(1, Ordering::Relaxed);
            let _ = purged.send((std::thread::current().id(), others));
        })
        .build()
        .expect("valid");
    manager.set_park_after(Duration::ZERO);
    let (mut client, server) = tokio::io::duplex(1024);
    tokio::spawn(manager.serve_connection(server, None, tower::service_fn(answer)));
    let get = client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    get.expect("writes");
    // Until well after both had their turn.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let purged: Vec<_> = threads.try_iter().collect();
    assert!(purged.iter().all(|(_, others)| *others == 0), "{purged:?}");
    let [(one, _), (other, _)] = purged[..] else {
        panic!("{purged:?}");
    };
    assert_ne!(one, other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_held_while_the_others_are_purged_comes_to_it_later() {
    let purged = Arc::new(Mutex::new(Vec::new()));
    let manager = ConnectionManager::builder()
        .purge_hook({
            let purged = Arc::clone(&purged);
            move || {
                purged
                    .lock()
                    .expect("no panic")
                    .push(std::thread::current().id());
            }
        })
        .build()
        .expect("valid");
    manager.set_park_after(Duration::ZERO);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (say_thread, thread) = tokio::sync::oneshot::channel();
    let holds = tokio::spawn(async move {
        let _ = say_thread.send(std::thread::current().id());
        let _ = held.recv_timeout(Duration::from_secs(30));
    });
    let thread = thread.await.expect("runs");
    // Its `serve_connection` has the sweep, wherever it is polled.
    let (mut client, server) = tokio::io::duplex(1024);
    tokio::spawn(manager.serve_connection(server, None, tower::service_fn(answer)));
    let get = client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    get.expect("writes");
    let threads = || purged.lock().expect("no panic").clone();
    until(&manager, "one is purged", |_| threads().len() == 1).await;
    assert_ne!(threads(), [thread], "it is held");
    drop(release);
    holds.await.expect("no panic");
    until(&manager, "both are purged", |_| threads().len() == 2).await;
    assert!(threads().contains(&thread));
}

#[tokio::test]
async fn a_connection_whose_upgrade_was_declined_is_parked_and_answers_again() {
    let (manager, address) = start(true).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    for n in 0..2 {
        stream
            .write_all(
                b"GET /now HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            )
            .await
            .expect("writes");
        let mut got = Vec::new();
        while !got.ends_with(b"/now ") {
            assert!(stream.read_buf(&mut got).await.expect("reads") > 0);
        }
        until(&manager, "parked", |m| m.stats().parked == 1).await;
        assert_eq!(manager.stats().unparked_total, n);
    }
}
