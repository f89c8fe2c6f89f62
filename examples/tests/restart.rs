//! A new process takes over under load, again and again, and no client notices.
//!
//! By default a small form. The full one, 20 restarts with 200 clients:
//! `STELLANE_TEST_RESTARTS=20 STELLANE_TEST_CLIENTS=200 cargo test --release -p stellane-examples --test restart -- --nocapture`
#![cfg(target_os = "linux")]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
}

/// Whoever serves now; ended when dropped.
struct Server {
    pid: u32,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start(engine: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_full_stack"))
            .env("STELLANE__SERVER__ADDRESS", "127.0.0.1:0")
            .env("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0")
            .env("STELLANE__ENGINE__KIND", engine)
            .env("STELLANE__ENGINE__CORES", "2")
            .env("STELLANE_LOG_LEVEL", "off")
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let pid = child.id();
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut find = |prefix: &str| -> SocketAddr {
            let line = lines
                .by_ref()
                .map(|line| line.expect("readable"))
                .find(|line| line.contains(prefix))
                .expect("the tour names its addresses");
            let (_, rest) = line.split_once("http://").expect("a URL");
            let host = rest.split('/').next().expect("a host");
            host.trim().parse().expect("an address")
        };
        let (address, admin) = (find("service"), find("admin"));
        std::thread::spawn(move || {
            // The pipe stays open for those who come after, and the first is not left a zombie.
            lines.for_each(drop);
            child.wait()
        });
        Self {
            pid,
            address,
            admin,
        }
    }

    fn signal(&self, signal: &str) {
        let killed = Command::new("kill")
            .args([signal, &self.pid.to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
    }

    /// Waits until another process has taken over and this one has ended.
    fn restart(&mut self) {
        self.signal("-USR2");
        let deadline = Instant::now() + Duration::from_secs(60);
        let successor = loop {
            if let Some(child) = child_of(self.pid) {
                break child;
            }
            assert!(is_running(self.pid), "it ended and nobody took over");
            assert!(Instant::now() < deadline, "nobody took over");
            std::thread::sleep(Duration::from_millis(1));
        };
        while is_running(self.pid) {
            assert!(Instant::now() < deadline, "the old process did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_running(successor), "the new process ended");
        self.pid = successor;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.pid.to_string()).status();
    }
}

/// The state and the parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

fn child_of(parent: u32) -> Option<u32> {
    std::fs::read_dir("/proc")
        .expect("lists")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid| stat(*pid).is_some_and(|(_, of)| of == parent))
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    reconnects: AtomicU64,
    stop: AtomicBool,
}

/// Keeps its connection until it is told to close; every error is one too many.
async fn client(address: SocketAddr, counts: Arc<Counts>) -> Result<(), String> {
    let mut answer = Vec::with_capacity(1024);
    loop {
        let connected = TcpStream::connect(address).await;
        let mut socket = connected.map_err(|error| format!("can't connect: {error}"))?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        for i in 0.. {
            if counts.stop.load(Relaxed) {
                return Ok(());
            }
            let lost = |error| format!("request {i} of a connection was lost: {error}");
            let get = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
            socket.write_all(get).await.map_err(lost)?;
            answer.clear();
            while !answer.ends_with(b"Hello, world!") {
                if socket.read_buf(&mut answer).await.map_err(lost)? == 0 {
                    return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
            if !answer.starts_with(b"HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(&answer).into_owned());
            }
            counts.answered.fetch_add(1, Relaxed);
            let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            if head.contains("connection: close") {
                counts.reconnects.fetch_add(1, Relaxed);
                break;
            }
        }
    }
}

async fn restarts_lose_nothing(engine: &str, restarts: usize, clients: usize) {
    let mut server = Server::start(engine);
    let counts = Arc::new(Counts::default());
    let mut running = JoinSet::new();
    for _ in 0..clients {
        running.spawn(client(server.address, Arc::clone(&counts)));
    }
    // It listens before it can be signalled.
    while counts.answered.load(Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let first = server.pid;
    for _ in 0..restarts {
        let before = counts.answered.load(Relaxed);
        server = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .expect("another process takes over");
        assert!(counts.answered.load(Relaxed) > before, "there was load");
        if let Some(Ok(Err(error))) = running.try_join_next() {
            panic!("{engine}: {error}");
        }
    }
    assert!(server.pid != first);
    // The admin address was handed over too.
    let mut admin = TcpStream::connect(server.admin).await.expect("connects");
    let get = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    admin.write_all(get).await.expect("writes");
    let mut said = String::new();
    admin.read_to_string(&mut said).await.expect("answers");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");

    counts.stop.store(true, Relaxed);
    while let Some(done) = running.join_next().await {
        done.expect("no panic")
            .unwrap_or_else(|error| panic!("{engine}: {error}"));
    }
    let reconnects = counts.reconnects.load(Relaxed);
    println!(
        "{engine}: {restarts} restarts, {clients} clients, {} requests, {reconnects} reconnects, 0 failed",
        counts.answered.load(Relaxed)
    );
    assert!(
        reconnects as usize >= clients,
        "nobody was told to come back"
    );
}

async fn test(engine: &str) {
    let restarts = number("STELLANE_TEST_RESTARTS", 2);
    let clients = number("STELLANE_TEST_CLIENTS", 32);
    restarts_lose_nothing(engine, restarts, clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_shared_engine_under_load_loses_no_request() {
    test("shared").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_per_core_engine_under_load_loses_no_request() {
    test("per_core").await;
}
