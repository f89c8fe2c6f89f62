//! A client that never sends the same string twice.
//!
//! `STELLANE_ATTACK=10000000 cargo test --release -p stellane-router --test interner_attack` is the
//! full form; the default is small enough for every run.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, Ordering},
};

use stellane_router::Interner;

static LIVE: AtomicI64 = AtomicI64::new(0);

struct Measuring;

/// What an allocation takes, with the header glibc puts before it.
fn cost(layout: Layout) -> i64 {
    ((layout.size() + 8).next_multiple_of(16).max(32)) as i64
}

// SAFETY: everything is left to `System`.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(cost(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(cost(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

#[test]
fn memory_stays_within_the_bound_and_the_known_stay_known() {
    let count: u64 = std::env::var("STELLANE_ATTACK")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000);
    for (admit_after, max_bytes) in [(1, 1 << 20), (2, 1 << 20), (1, 1 << 16), (1, 1 << 23)] {
        let before = LIVE.load(Ordering::Relaxed);
        let interner = Interner::builder()
            .admit_after(admit_after)
            .max_bytes(max_bytes)
            .build()
            .unwrap();
        let known: Vec<String> = (0..50).map(|i| format!("legit-{i}")).collect();
        for word in known.iter().chain(&known).chain(&known) {
            drop(interner.intern(word));
        }
        let kept = known.iter().map(|k| k.capacity() as i64 + 24).sum::<i64>();
        let mut peak = 0;
        let mut hits = 0;
        for i in 0..count {
            drop(interner.intern(&format!(
                "{:032x}",
                u128::from(i).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C)
            )));
            if i % 16 == 0 {
                let word = &known[(i / 16) as usize % known.len()];
                hits += u64::from(interner.lookup(word).is_some());
            }
            if i % 1024 == 0 {
                peak = peak.max(LIVE.load(Ordering::Relaxed) - before - kept);
            }
        }
        let bound = max_bytes as i64 * 11 / 10 + if admit_after > 1 { 16 << 10 } else { 0 };
        let share = hits as f64 / (count as f64 / 16.0);
        println!(
            "admit_after {admit_after}, max_bytes {max_bytes}: peak {peak}, known found {share:.4}"
        );
        assert!(peak <= bound, "peak {peak} above {bound}");
        assert!(share > 0.99, "only {share} of the known were found");
    }
}
