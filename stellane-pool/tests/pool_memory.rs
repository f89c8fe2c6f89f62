//! No burst of large bodies decides how much memory stays: counted by the allocator itself.
#![cfg(feature = "http")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use stellane_pool::{PoolConfig, PooledBody, Pools};

/// Counts the bytes that are alive.
struct Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_mix_with_huge_bodies_stays_within_the_budget_and_leaves_nothing_behind() {
    const HUGE: usize = 64 << 20;
    let mut config = PoolConfig::enabled();
    config.max_retained_bytes = 4 << 20;
    config.max_body_bytes = HUGE;
    let pools = Pools::builder().config(config).build().expect("valid");
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let mut step = 0_usize;
    let mut below = |n: usize| {
        // Low-discrepancy steps: small and large in turn.
        step = step.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (step >> 32) % n
    };
    let mut collect = |huge: bool| {
        let frames = if huge { HUGE >> 20 } else { below(2) };
        let first = Bytes::from(vec![1; below(100_000)]);
        let rest = std::iter::repeat_n(chunk.clone(), frames.saturating_sub(usize::from(huge)));
        let frames = std::iter::once(first)
            .chain(rest)
            .map(|data| Ok::<_, Infallible>(Frame::data(data)));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut collected = pin!(PooledBody::collect(body, &pools));
        match collected
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(body) => drop(body.expect("within the limit").into_bytes()),
            Poll::Pending => unreachable!("all frames are there"),
        }
        let stats = pools.stats();
        assert!(stats.retained_bytes <= stats.budget_bytes, "{stats:?}");
    };
    collect(false);
    pools.trim();
    let baseline = ALIVE.load(Ordering::Relaxed);
    for request in 1..=500 {
        collect(request % 100 == 0);
    }
    assert!(pools.stats().retained_bytes > 0);
    pools.tick();
    pools.tick();
    assert_eq!(pools.stats().retained_bytes, 0);
    let alive = ALIVE.load(Ordering::Relaxed);
    assert!(
        alive <= baseline + (16 << 20),
        "{alive} bytes alive, {baseline} before"
    );
}
