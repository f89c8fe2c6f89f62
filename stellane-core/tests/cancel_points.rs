//! A half-written order is found, whatever its awaits wait for; a whole one is not complained about.
#![cfg(feature = "cancel-points")]

use std::{
    future::{Future, pending},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::State, http::Request, routing::post};
use stellane_core::cancel_points::{CancelPoints, Points, Report};
use tokio::{
    sync::mpsc,
    task::{coop::cooperative, spawn_blocking},
    time::sleep,
};
use tower::ServiceExt;

/// In memory, behind tokio's lock: each operation is ready at once.
#[derive(Clone, Default)]
struct Database(Arc<tokio::sync::Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    orders: Vec<u32>,
    items: Vec<u32>,
}

impl Database {
    async fn insert_order(&self, id: u32) {
        self.0.lock().await.orders.push(id);
    }

    async fn insert_items(&self, id: u32) {
        self.0.lock().await.items.push(id);
    }

    async fn insert_both(&self, id: u32) {
        let mut tables = self.0.lock().await;
        tables.orders.push(id);
        tables.items.push(id);
    }

    fn check(&self) -> Result<(), String> {
        let tables = self.0.try_lock().map_err(|_| "still locked")?;
        match tables.orders.iter().find(|id| !tables.items.contains(id)) {
            Some(id) => Err(format!("order {id} has no items")),
            None => Ok(()),
        }
    }
}

/// The planted fault: two writes, and an await between them.
async fn half(State(database): State<Database>) {
    database.insert_order(7).await;
    database.insert_items(7).await;
}

async fn whole(State(database): State<Database>) {
    database.insert_both(7).await;
}

/// As `half`, in a task of its own, which goes on when the handler is dropped.
async fn spawned(database: State<Database>) {
    tokio::spawn(half(database))
        .await
        .expect("it does not panic");
}

async fn place_order(path: &str, database: &Database) {
    let app = Router::new()
        .route("/half", post(half))
        .route("/whole", post(whole))
        .route("/spawned", post(spawned))
        .with_state(database.clone());
    let request = Request::post(path).body(Body::empty()).expect("a request");
    assert!(
        app.oneshot(request)
            .await
            .expect("never fails")
            .status()
            .is_success()
    );
}

fn orders(points: Points, path: &'static str) -> Report {
    CancelPoints::at(points).run(async || order(path))
}

fn order(
    path: &'static str,
) -> (
    impl Future<Output = ()>,
    impl AsyncFnOnce() -> Result<(), String>,
) {
    let database = Database::default();
    let placed = {
        let database = database.clone();
        async move { place_order(path, &database).await }
    };
    (placed, async move || database.check())
}

#[test]
fn between_two_operations_a_half_written_order_is_found() {
    let report = orders(Points::Operations, "/half");
    assert_eq!((report.points, report.failures.len()), (2, 1));
    let failure = &report.failures[0];
    assert_eq!(
        failure.to_string().lines().next(),
        Some("cancelled at point 2: order 7 has no items")
    );
    // The await in the handler, from the inside out: by lines where they are known, else by names.
    let line = |text: &str| {
        let lines = include_str!("cancel_points.rs").lines();
        let at = lines.take_while(|line| line.trim() != text).count() + 1;
        format!("/cancel_points.rs:{at}:")
    };
    let calls = [
        ("insert_items", line("self.0.lock().await.items.push(id);")),
        ("half", line("database.insert_items(7).await;")),
    ];
    let found = calls.map(|(name, place)| {
        let is_it = |call: &String| call.contains(name) || call.contains(&place);
        failure.at.iter().position(is_it)
    });
    assert_eq!(found, [Some(0), Some(1)], "{failure}");
    assert!(
        failure.at.iter().all(|call| !call.contains("tokio::")),
        "{failure}"
    );
}

#[test]
fn awaits_that_are_ready_at_once_are_no_waits() {
    let report = orders(Points::Waits, "/half");
    assert_eq!((report.points, report.failures.len()), (0, 0));
}

#[test]
fn what_is_written_at_once_or_in_a_task_of_its_own_passes() {
    for path in ["/whole", "/spawned"] {
        CancelPoints::at(Points::Operations).assert(async || order(path));
    }
}

#[test]
#[should_panic(expected = "1 of 2 points: cancelled at point 2: order 7 has no items\n    in ")]
fn assert_says_where() {
    CancelPoints::at(Points::Operations).assert(async || order("/half"));
}

#[test]
#[should_panic(expected = "no point where it can be cancelled")]
fn a_test_without_a_point_fails() {
    CancelPoints::at(Points::Waits).assert(async || order("/whole"));
}

#[test]
#[should_panic(expected = "more than 3 points")]
fn a_test_that_leaves_points_out_fails() {
    CancelPoints::at(Points::Operations)
        .most(3)
        .assert(async || {
            let future = async {
                for _ in 0..10 {
                    sleep(Duration::from_secs(1)).await
                }
            };
            (future, async || Ok::<(), &str>(()))
        });
}

/// Two steps, of which both or none are to be done.
fn two_steps<F: Future<Output = ()>>(
    step: impl Fn(Arc<Mutex<u32>>) -> F,
) -> (
    impl Future<Output = ()>,
    impl AsyncFnOnce() -> Result<(), &'static str>,
) {
    let done = Arc::new(Mutex::new(0));
    let checked = Arc::clone(&done);
    let future = async move {
        step(Arc::clone(&done)).await;
        step(done).await;
    };
    let check = async move || match *checked.lock().expect("not poisoned") {
        1 => Err("half"),
        _ => Ok(()),
    };
    (future, check)
}

fn count(done: &Mutex<u32>) {
    *done.lock().expect("not poisoned") += 1;
}

/// The same points each time. What runs on a thread goes on: at the third point the second step has begun.
#[test]
fn threads_and_timers_have_their_points() {
    for _ in 0..5 {
        let report = CancelPoints::at(Points::Operations).run(async || {
            two_steps(async |done| {
                spawn_blocking(move || count(&done))
                    .await
                    .expect("it does not panic");
                sleep(Duration::from_secs(3600)).await;
            })
        });
        let failed: Vec<_> = report
            .failures
            .iter()
            .map(|failure| failure.point)
            .collect();
        assert_eq!((report.points, failed), (4, vec![1, 2]));
    }
}

#[test]
fn a_fake_has_points_by_cooperative() {
    let report = CancelPoints::at(Points::Operations)
        .run(async || two_steps(async |done| pin!(cooperative(async move { count(&done) })).await));
    assert_eq!((report.points, report.failures.len()), (2, 1));
}

/// Such as a long poll: it ends only when its client leaves.
#[test]
fn a_future_that_never_ends_is_dropped_where_it_waits() {
    // Where it waits; before it tries to receive, and where it waits.
    for (points, count) in [(Points::Waits, 1), (Points::Operations, 2)] {
        let report = CancelPoints::at(points).run(async || {
            let (sender, mut receiver) = mpsc::channel::<()>(1);
            let future = async move {
                let _sender = sender;
                receiver.recv().await;
                pending::<()>().await;
            };
            (future, async || Ok::<(), &str>(()))
        });
        assert_eq!(report.points, count, "{points:?}");
    }
}

#[test]
fn another_process_takes_real_time() {
    use tokio::{io::AsyncReadExt, time::timeout};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::sleep(Duration::from_millis(50));
            drop(std::io::Write::write_all(&mut &stream, b"x"));
        }
    });
    CancelPoints::at(Points::Operations)
        .real_time()
        .assert(async || {
            let future = async move {
                let mut stream = tokio::net::TcpStream::connect(address)
                    .await
                    .expect("it listens");
                let mut byte = [0];
                let read = timeout(Duration::from_secs(60), stream.read_exact(&mut byte)).await;
                read.expect("in time").expect("it answers");
            };
            (future, async || Ok::<(), &str>(()))
        });
}
