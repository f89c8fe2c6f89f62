//! What a user of the worker pool relies on.
#![cfg(all(feature = "worker", not(loom)))]

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use stellane_pool::{
    JobError, Scale, WorkerPool, WorkerPoolConfig, WorkerPoolLayer, worker::Placed,
};
use tower::{Layer, ServiceExt, service_fn};

fn pool(min: usize, max: usize, queue: usize) -> WorkerPool {
    let mut config = WorkerPoolConfig::default();
    config.min_workers = min;
    config.max_workers = max;
    config.queue_size = queue;
    config.idle_timeout = Duration::from_millis(20);
    config.scale = Scale::Queue;
    WorkerPool::builder().config(config).build().expect("valid")
}

/// Waits for what other threads will do; fails instead of hanging.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("never {what}"));
}

#[tokio::test]
async fn jobs_run_on_the_pools_threads_with_the_submitters_runtime() {
    let pool = pool(2, 2, 10);
    let name = pool.spawn(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        std::thread::current().name().map(str::to_owned)
    });
    assert!(
        name.await
            .expect("runs")
            .expect("named")
            .starts_with("stellane-worker-")
    );
    assert_eq!(pool.stats().completed, 1);
}

#[test]
fn every_job_has_the_runtime_it_was_submitted_from_or_none() {
    let pool = pool(1, 1, 1000);
    let runtimes = [(); 2].map(|()| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    });
    let seen = || tokio::runtime::Handle::try_current().map(|handle| handle.id());
    for turn in 0..200_usize {
        let [first, second] = &runtimes;
        // From none, and by turns one and several in a row from the others.
        let outside = pool.spawn_blocking(seen);
        let inside: Vec<_> = [first, second, second, first]
            .into_iter()
            .skip(turn % 3)
            .map(|runtime| {
                let _entered = runtime.enter();
                (runtime.handle().id(), pool.spawn_blocking(seen))
            })
            .collect();
        first.block_on(async {
            for (id, job) in inside {
                assert_eq!(job.await.expect("runs").ok(), Some(id));
            }
            assert!(outside.await.expect("runs").is_err());
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_one_tiny_job_after_the_other_are_all_told() {
    let pool = pool(2, 2, 1000);
    let callers: Vec<_> = (0..8_usize)
        .map(|caller| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for i in 0..500 {
                    let job = pool.spawn_blocking(move || i);
                    // Some leave before they are told.
                    if (i + caller) % 7 == 0 {
                        let _ = tokio::time::timeout(Duration::ZERO, job).await;
                    } else {
                        assert_eq!(job.await, Ok(i));
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("it does not panic");
    }
    until("quiet", || pool.stats().outstanding == 0).await;
    assert_eq!(pool.stats().queue_depth, 0);
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_worker_lives_on() {
    let pool = pool(1, 1, 10);
    let panicked = pool.spawn_blocking(|| panic!("boom {}", 7)).await;
    assert_eq!(
        panicked,
        Err::<(), _>(JobError::Panicked("boom 7".to_owned()))
    );
    assert_eq!(pool.spawn_blocking(|| 1).await, Ok(1));
    assert_eq!((pool.stats().panics, pool.stats().completed), (1, 1));
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let pool = pool(1, 1, 2);
    let (release, wait) = mpsc::channel::<()>();
    let running = pool.spawn_blocking(move || wait.recv());
    until("running", || pool.stats().queue_depth == 0).await;
    let waiting = [pool.spawn_blocking(|| ()), pool.spawn_blocking(|| ())];
    assert_eq!(pool.spawn_blocking(|| ()).await, Err(JobError::Overloaded));
    assert_eq!(pool.stats().shed, 1);
    release.send(()).expect("the job waits");
    running.await.expect("runs").expect("released");
    for job in waiting {
        assert_eq!(job.await, Ok(()));
    }
}

#[tokio::test]
async fn dropping_a_waiting_job_means_it_never_runs() {
    let pool = pool(1, 1, 10);
    let (release, wait) = mpsc::channel::<()>();
    let running = pool.spawn_blocking(move || wait.recv());
    let ran = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ran);
    drop(pool.spawn_blocking(move || flag.store(true, Ordering::SeqCst)));
    release.send(()).expect("the job waits");
    running.await.expect("runs").expect("released");
    assert_eq!(
        pool.spawn_blocking(|| 1).await,
        Ok(1),
        "after the dropped one"
    );
    assert!(!ran.load(Ordering::SeqCst));
    assert_eq!(pool.stats().cancelled, 1);
}

#[tokio::test]
async fn a_pool_has_no_thread_before_its_first_job() {
    let pool = pool(2, 2, 10);
    pool.set_min_workers(1);
    pool.set_min_workers(2);
    let threads = || pool.stats().idle + pool.stats().active;
    assert_eq!(threads(), 0);
    pool.spawn_blocking(|| ()).await.expect("runs");
    assert_eq!(threads(), 2);
}

#[tokio::test]
async fn a_pool_that_ends_before_its_first_job_is_gone() {
    let pool = pool(1, 1, 10);
    pool.drain();
    assert_eq!(pool.spawn_blocking(|| ()).await, Err(JobError::Closed));
    assert_eq!(pool.stats().idle + pool.stats().active, 0);
}

#[tokio::test]
async fn threads_are_added_for_a_deep_queue_and_end_when_idle() {
    let pool = pool(1, 4, 100);
    let running = Arc::new(AtomicUsize::new(0));
    let barrier = Arc::new(Barrier::new(4));
    let jobs: Vec<_> = (0..12)
        .map(|i| {
            let (running, barrier) = (running.clone(), barrier.clone());
            pool.spawn_blocking(move || {
                running.fetch_add(1, Ordering::SeqCst);
                if i < 4 {
                    // Passes only when four run at once.
                    barrier.wait();
                }
            })
        })
        .collect();
    for job in jobs {
        job.await.expect("runs");
    }
    assert_eq!(running.load(Ordering::SeqCst), 12);
    until("shrunk", || pool.stats().idle + pool.stats().active == 1).await;
}

#[tokio::test]
async fn settings_change_while_it_runs() {
    let pool = pool(1, 2, 1);
    pool.spawn_blocking(|| ()).await.expect("runs");
    pool.set_min_workers(3);
    until("three", || pool.stats().idle + pool.stats().active == 3).await;
    assert_eq!(pool.stats().max_workers, 3, "never below the minimum");
    pool.set_queue_size(50);
    pool.set_max_workers(8);
    let stats = pool.stats();
    assert_eq!(
        (stats.min_workers, stats.max_workers, stats.queue_size),
        (3, 8, 50)
    );
}

#[tokio::test]
async fn after_a_shutdown_jobs_say_closed() {
    let pool = pool(1, 1, 10);
    let (release, wait) = mpsc::channel::<()>();
    let running = pool.spawn_blocking(move || wait.recv());
    until("running", || pool.stats().queue_depth == 0).await;
    let waiting = pool.spawn_blocking(|| ());
    pool.shutdown();
    assert_eq!(waiting.await, Err(JobError::Closed));
    release.send(()).expect("the job waits");
    assert_eq!(running.await.expect("runs"), Ok(()));
    assert!(pool.spawn_blocking(|| ()).await.is_err());
}

#[tokio::test]
async fn cancel_and_panic_storms_leave_nothing_behind() {
    let pool = pool(2, 4, 10_000);
    let kept: Vec<_> = (0..2000)
        .filter_map(|i| {
            let job = pool.spawn(async move {
                tokio::task::yield_now().await;
                assert!(i % 3 != 0, "every third panics");
            });
            (i % 2 == 0).then_some(job)
        })
        .collect();
    let mut panicked = 0;
    for job in kept {
        panicked += usize::from(matches!(job.await, Err(JobError::Panicked(_))));
    }
    assert_eq!(panicked, 334);
    until("quiet", || pool.stats().queue_depth == 0).await;
    assert_eq!(pool.spawn_blocking(|| 7).await, Ok(7));
}

#[tokio::test]
async fn the_layer_answers_503_and_500_as_problem_documents() {
    let pool = pool(1, 1, 1);
    let layer = WorkerPoolLayer::new(&pool);
    let service = layer.layer(service_fn(async |request: Request<()>| {
        assert!(request.uri().path() != "/panic", "as asked");
        Ok::<_, std::convert::Infallible>(Response::new(Full::from("fine")))
    }));
    let ask = async |path: &str| {
        let request = Request::builder().uri(path).body(()).expect("a request");
        let response = service.clone().oneshot(request).await.expect("infallible");
        let (head, body) = response.into_parts();
        (head, body.collect().await.expect("a body").to_bytes())
    };
    assert_eq!(ask("/").await.1, "fine");
    let (head, body) = ask("/panic").await;
    assert_eq!(head.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(head.headers["content-type"], "application/problem+json");
    assert_eq!(body, r#"{"title":"Internal Server Error","status":500}"#);

    let (release, wait) = mpsc::channel::<()>();
    let running = pool.spawn_blocking(move || wait.recv());
    until("running", || pool.stats().queue_depth == 0).await;
    let waiting = pool.spawn_blocking(|| ());
    let (head, body) = ask("/").await;
    assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head.headers["retry-after"], "1");
    assert!(body.starts_with(b"{\"title\":\"Service Unavailable\""));
    release.send(()).expect("the job waits");
    running.await.expect("runs").expect("released");
    waiting.await.expect("runs");
}

#[tokio::test]
async fn a_layer_with_a_threshold_moves_a_slow_route_to_the_pool_and_says_so() {
    let pool = pool(1, 1, 10);
    let (said, moves) = mpsc::channel();
    let threshold = Duration::from_millis(1);
    let layer = WorkerPoolLayer::new(&pool)
        .class("/slow", 1)
        .threshold_with(threshold, move |moved| {
            said.send(moved.clone()).expect("the test listens");
        });
    let service = layer.layer(service_fn(async |_: Request<()>| {
        std::thread::sleep(Duration::from_millis(20));
        let thread = std::thread::current().name().map(str::to_owned);
        Ok::<_, std::convert::Infallible>(Response::new(thread.unwrap_or_default()))
    }));
    let ask = async || {
        let response = service.clone().oneshot(Request::new(())).await;
        let body = response.expect("infallible").into_body();
        body.collect().await.expect("a body").to_bytes()
    };
    assert!(!ask().await.starts_with(b"stellane-worker"));
    let moved = moves.try_recv().expect("one call was enough");
    assert_eq!((&*moved.class, moved.to), ("/slow", Placed::Pool));
    assert!(ask().await.starts_with(b"stellane-worker"));
    assert!(moves.try_recv().is_err(), "said once");
}

#[test]
fn wrong_settings_are_all_named() {
    let mut config = WorkerPoolConfig::default();
    config.min_workers = 0;
    config.queue_size = 0;
    let error = WorkerPool::builder()
        .config(config)
        .build()
        .expect_err("wrong")
        .to_string();
    assert!(
        error.contains("`min_workers` = 0: expected 1 to 65536"),
        "{error}"
    );
    assert!(error.contains("`queue_size` = 0"), "{error}");
}
