//! What the preset offers a developer over real sockets: profiles on the admin address, pages that reload.
#![cfg(all(feature = "full", feature = "profiling"))]

#[path = "support/ask.rs"]
mod ask;

use std::{
    alloc::System,
    hint,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use axum::{response::Html, routing::get};
use stellane_core::{
    Runtime, RuntimeConfig, engine::EngineKind, hot_reload::LIVE_PATH, metrics::RouteLabelLayer,
    profiling::HeapProfiler, router::Router,
};
use tokio::sync::oneshot;

#[global_allocator]
static ALLOCATOR: HeapProfiler<System> = HeapProfiler::new(System);

fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    config.server.drain_timeout = Duration::from_millis(100);
    config.connection.drain_idle = Duration::ZERO;
    config
}

/// A started service: its two addresses, what stops it, and its end.
macro_rules! started {
    ($builder:expr) => {{
        let (stop, stopped) = oneshot::channel::<()>();
        let bound = $builder
            .shutdown_signal(async {
                let _ = stopped.await;
            })
            .build()
            .expect("builds")
            .bind("127.0.0.1:0")
            .await
            .expect("binds");
        let (address, admin) = (bound.local_addr(), bound.admin_addr().expect("on"));
        (address, admin, stop, tokio::spawn(bound.serve()))
    }};
}

/// Asks the service for `paths`, then the admin service for `admin_path`; the last answer of each.
macro_rules! served {
    ($config:expr, $service:expr, $paths:expr, $admin_path:expr) => {{
        let builder = Runtime::builder().config($config).service($service);
        let builder = builder.heap_profiler(&ALLOCATOR);
        let (address, admin, stop, serving) = started!(builder);
        let mut answer = String::new();
        for path in $paths {
            answer = ask::get(address, path).await;
        }
        let said = ask::get(admin, $admin_path).await;
        stop.send(()).expect("still serving");
        serving.await.expect("no panic").expect("no error");
        (answer, said)
    }};
}

async fn blocks() -> &'static str {
    thread::sleep(Duration::from_millis(250));
    "blocked"
}

async fn waits() -> &'static str {
    tokio::time::sleep(Duration::from_millis(50)).await;
    "waited"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_block_profile_names_the_route_that_blocks_of_either_router() {
    let mut config = config();
    config.dev.profile_block = true;
    // Far above what another process may take from this one.
    config.dev.block_threshold = Duration::from_millis(200);
    let paths = ["/block/1", "/wait"];
    let ours = Router::builder()
        .get("/block/{n}", blocks)
        .get("/wait", waits)
        .build()
        .expect("no conflicts");
    let axum = axum::Router::new()
        .route("/block/{n}", get(blocks))
        .route("/wait", get(waits))
        .route_layer(RouteLabelLayer::axum());
    let mut handoff = config.clone();
    handoff.engine.kind = EngineKind::Handoff;
    let (_, on_handoff) = served!(handoff, ours.clone(), paths, "/debug/profile/block");
    let (_, said) = served!(config.clone(), ours, paths, "/debug/profile/block");
    let (_, of_axum) = served!(config, axum, paths, "/debug/profile/block");
    for said in [said, of_axum, on_handoff] {
        assert!(said.contains("  /block/{n}\n"), "{said}");
        assert!(
            !said.contains("/wait") && !said.contains("unknown"),
            "{said}"
        );
    }
}

/// One handler waits by its thread and one computes, both until they are told to end.
static GO_ON: AtomicBool = AtomicBool::new(false);

async fn sleeps_on() -> &'static str {
    while !GO_ON.load(Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    "slept"
}

async fn computes_on() -> &'static str {
    while !GO_ON.load(Relaxed) {
        hint::black_box((0..1000).map(hint::black_box).sum::<u32>());
    }
    "computed"
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_block_profile_says_where_handlers_stand_that_hold_a_thread() {
    let mut config = config();
    config.dev.profile_block = true;
    config.engine.kind = EngineKind::Handoff;
    let router = Router::builder()
        .get("/sleeps/{n}", sleeps_on)
        .get("/computes/{n}", computes_on)
        .build()
        .expect("no conflicts");
    let builder = Runtime::builder().config(config).service(router);
    let (address, admin, stop, serving) = started!(builder);
    let asking: Vec<_> = ["/sleeps/1", "/computes/1"]
        .map(|path| tokio::spawn(async move { ask::get(address, path).await }))
        .into();
    let mut profile = String::new();
    for _ in 0..600 {
        profile = ask::get(admin, "/debug/profile/block").await;
        let stack = |route: &str| {
            let of_route = profile.split_once(route)?.1;
            Some(of_route.split("  /").next()?.to_owned())
        };
        let sleeps = stack("  /sleeps/{n}\n").is_some_and(|stack| stack.contains("sleeps_on"));
        let computes =
            stack("  /computes/{n}\n").is_some_and(|stack| stack.contains("computes_on"));
        if sleeps && computes {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    GO_ON.store(true, Relaxed);
    for asked in asking {
        asked.await.expect("no panic");
    }
    stop.send(()).expect("still serving");
    serving.await.expect("no panic").expect("no error");
    assert!(profile.contains("sleeps_on"), "{profile}");
    assert!(profile.contains("computes_on"), "{profile}");
}

#[tokio::test]
async fn the_heap_profile_is_there_if_it_is_asked_for() {
    let mut on = config();
    on.dev.profile_mem = true;
    // Rarely: every test of this process allocates here, and another one measures time.
    on.dev.heap_sample_bytes = 1 << 20;
    let app = axum::Router::<()>::new().route("/", get(waits));
    let (_, profile) = served!(on, app.clone(), ["/"], "/debug/profile/heap");
    assert!(profile.starts_with("HTTP/1.1 200"), "{profile}");
    let (_, refused) = served!(config(), app, ["/"], "/debug/profile/heap");
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
}

#[tokio::test]
async fn pages_reload_with_hot_reload_and_are_left_alone_without() {
    let app = axum::Router::<()>::new().route("/", get(async || Html("<p>page</p>")));
    let mut on = config();
    on.dev.hot_reload = true;
    let (page, metrics) = served!(on, app.clone(), [LIVE_PATH, "/"], "/metrics");
    assert!(page.contains("<p>page</p><script>"), "{page}");
    // Asking who answers is no request of the application.
    assert!(
        metrics.contains("_count{") && !metrics.contains("status_code=\"404\""),
        "{metrics}"
    );
    let (page, _) = served!(config(), app, ["/"], "/metrics");
    assert!(page.ends_with("<p>page</p>"), "{page}");
}
