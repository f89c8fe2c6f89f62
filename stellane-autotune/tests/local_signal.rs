//! What the signal of a process says beside neighbours that have its CPUs.
#![cfg(unix)]

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use stellane_autotune::LocalSignal;

/// From here on a limit takes the machine for full.
const FULL: f64 = 2.5;

/// Alone it is full; with next to nothing of the CPUs it is not, though its tasks wait as long and longer.
#[test]
fn who_gets_no_cpu_is_not_full() {
    assert!(most_tasks(Command::new(this()), Duration::from_secs(60)) > FULL);
    let over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        let most = most_tasks(niced(), Duration::from_secs(3));
        over.store(true, Ordering::Relaxed);
        most
    });
    assert!(most < FULL, "{most}");
}

/// Valgrind takes away a page by which the clock could be read.
#[test]
#[ignore = "needs valgrind"]
fn it_watches_under_valgrind() {
    let mut watched = Command::new("valgrind");
    watched.arg("--quiet").arg(this());
    most_tasks(watched, Duration::from_millis(500));
}

/// The process of which the tests ask: it works until its signal says that it is full, for so many milliseconds at most, and
/// prints what that said.
#[tokio::test]
#[ignore = "the others run it"]
async fn more_tasks_than_its_thread_can_run() {
    let at_most: u64 = std::env::var("AT_MOST_MS").unwrap().parse().unwrap();
    let (signal, watching) = LocalSignal::tokio();
    tokio::spawn(watching);
    for _ in 0..10 {
        tokio::spawn(async {
            loop {
                let since = Instant::now();
                while since.elapsed() < Duration::from_millis(10) {}
                tokio::task::yield_now().await;
            }
        });
    }
    let (since, mut most) = (Instant::now(), 0.0);
    while most < FULL && since.elapsed() < Duration::from_millis(at_most) {
        tokio::task::yield_now().await;
        most = signal.tasks_per_core().unwrap_or_default().max(most);
    }
    println!("most: {most}");
}

fn this() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

/// It gets a tenth of a CPU that another wants.
fn niced() -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "10"]).arg(this());
    command
}

fn most_tasks(mut command: Command, at_most: Duration) -> f64 {
    let child = command
        .args(["--exact", "more_tasks_than_its_thread_can_run"])
        .args(["--ignored", "--nocapture"])
        .env("AT_MOST_MS", at_most.as_millis().to_string());
    let output = child.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let most = text.split_whitespace().skip_while(|word| *word != "most:");
    most.skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("{output:?}"))
}
