#![allow(dead_code, reason = "each test uses its part")]
//! Waits that end in a failure, by looks and not by the clock: they go on while the process is stopped or gets no CPU.

use std::{pin::pin, time::Duration};

use tokio::time::{sleep, timeout};

/// Whether it holds at one of many looks, a minute of them at least.
pub(crate) async fn holds_soon(mut holds: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..30_000 {
        if holds().await {
            return true;
        }
        sleep(Duration::from_millis(2)).await;
    }
    false
}

/// What comes of it, if that comes before as many looks as take a minute.
pub(crate) async fn in_time<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..600 {
        if let Ok(output) = timeout(Duration::from_millis(100), future.as_mut()).await {
            return Some(output);
        }
    }
    None
}
