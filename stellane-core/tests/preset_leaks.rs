//! Runtimes that come and go leave nothing behind. Alone in its file: it counts the bytes and the threads of the process.
#![cfg(all(feature = "full", target_os = "linux"))]

#[path = "support/ask.rs"]
mod ask;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, routing::get};
use stellane_core::{Runtime, RuntimeConfig, engine::EngineKind, serve};
use tokio::sync::oneshot;

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RUNTIMES: usize = 50;

fn threads() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("readable");
    threads.count()
}

/// Many runs leave no thread, and no bytes again and again: once in ten runs is seen, wherever it begins. What is there once is
/// no leak, whichever run it comes with: the thread of the signals, what a thread keeps to use again.
fn assert_no_growth(kind: &str, run: &dyn Fn()) {
    run();
    std::thread::sleep(Duration::from_millis(300));
    let usual = threads();
    let mut left = Vec::with_capacity(RUNTIMES);
    for _ in 0..RUNTIMES {
        run();
        // Threads that nobody joins, and what they hold, are on their way.
        for _ in 0..1000 {
            if threads() <= usual {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(threads() <= usual, "{kind}: a thread is left");
        left.push(LIVE.load(Relaxed));
    }
    println!("{kind}: {:?} to {:?} bytes", left[0], left[RUNTIMES - 1]);
    let fifths: Vec<_> = left.chunks(RUNTIMES / 5).collect();
    // With a fifth between them.
    let grows = |from: usize, to: usize| fifths[to].iter().min() > fifths[from].iter().max();
    assert!(!(grows(0, 2) && grows(2, 4)), "{kind}: {left:?}");
}

fn app() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// A runtime with all its parts, an admin address, workers that have worked, a request and an end.
async fn whole_life(engine: EngineKind) {
    let config = RuntimeConfig::default().with(|config| {
        config.server.admin_address = "127.0.0.1:0".to_owned();
        config.engine.kind = engine;
    });
    let (end, ended) = oneshot::channel::<()>();
    let runtime = Runtime::builder()
        .config(config)
        .service(app())
        .background("nothing", async |_| ())
        .shutdown_signal(async { drop(ended.await) })
        .build()
        .expect("builds");
    let runtime = runtime.bind("127.0.0.1:0").await.expect("listens");
    let workers = runtime.components().workers.clone();
    let address = runtime.local_addr();
    let serving = tokio::spawn(runtime.serve());
    let answer = ask::get(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    workers.spawn_blocking(|| ()).await.expect("runs");
    drop(workers);
    drop(end);
    serving.await.expect("ends").expect("without an error");
}

/// The two lines, with the signals of the process.
async fn two_lines() {
    let (end, ended) = oneshot::channel::<()>();
    let server = serve("127.0.0.1:0", app()).with_graceful_shutdown(async { drop(ended.await) });
    let server = server.bind().await.expect("listens");
    let address = server.local_addr();
    let serving = tokio::spawn(server.serve());
    let answer = ask::get(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    drop(end);
    serving.await.expect("ends").expect("without an error");
}

/// Built and never served, with the signals of the process.
async fn never_served() {
    let runtime = Runtime::builder().service(app()).build();
    drop(runtime.expect("builds"));
}

fn tokio() -> tokio::runtime::Runtime {
    let mut tokio = tokio::runtime::Builder::new_current_thread();
    // Threads of its own that block are kept for 10 s otherwise.
    tokio.enable_all().thread_keep_alive(Duration::ZERO);
    tokio.build().expect("builds")
}

#[test]
fn runtimes_that_come_and_go_leave_neither_memory_nor_threads() {
    use EngineKind::{Handoff, PerCore, Shared};
    assert_no_growth("shared", &|| tokio().block_on(whole_life(Shared)));
    assert_no_growth("per core", &|| tokio().block_on(whole_life(PerCore)));
    assert_no_growth("handoff", &|| tokio().block_on(whole_life(Handoff)));
    assert_no_growth("two lines", &|| tokio().block_on(two_lines()));
    assert_no_growth("never served", &|| tokio().block_on(never_served()));
    let one = tokio();
    assert_no_growth("in one runtime of tokio", &|| {
        one.block_on(async {
            whole_life(Shared).await;
            // What was cut off is dropped in the next turns.
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
    });
}
