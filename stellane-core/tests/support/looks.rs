use std::time::Duration;

/// Whether it holds at one of many looks, a minute of them at least: by looks and not by the clock, so that it goes on while the
/// process is stopped.
pub(crate) async fn holds_soon(mut holds: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..30_000 {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}
