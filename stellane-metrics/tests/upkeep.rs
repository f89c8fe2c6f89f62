//! Nobody scrapes, and the samples of the application's histograms still do not pile up.

#![cfg(feature = "prometheus")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::Duration,
};

use stellane_metrics::{metrics, prometheus};

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: forwards to the system allocator; the counter never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test(start_paused = true)]
async fn samples_are_moved_into_buckets_between_scrapes() {
    let scrape = prometheus().build().unwrap();
    let histogram =
        metrics::with_local_recorder(&scrape.recorder(), || metrics::histogram!("work_seconds"));
    let before = LIVE.load(Relaxed);
    const ROUNDS: i64 = 40;
    const SAMPLES: i64 = 20_000;
    for _ in 0..ROUNDS {
        for _ in 0..SAMPLES {
            histogram.record(0.001);
        }
        // The clock is paused: time passes as soon as everybody waits.
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    let grown = LIVE.load(Relaxed) - before;
    let piled_up = ROUNDS * SAMPLES * 16;
    assert!(
        grown < piled_up / 4,
        "{grown} of {piled_up} bytes are still there"
    );
    let total = ROUNDS * SAMPLES;
    assert!(
        scrape
            .render()
            .contains(&format!("work_seconds_count {total}")),
        "nothing is lost"
    );
}
