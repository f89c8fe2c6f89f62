use std::time::Duration;

use stellane_core::connection::ConnectionManager;

/// Waits until the manager agrees; a test that waits in vain fails by its own timeout.
pub(crate) async fn until(
    manager: &ConnectionManager,
    what: &str,
    holds: impl Fn(&ConnectionManager) -> bool,
) {
    // By looks and not by the clock: it goes on while the process is stopped.
    for _ in 0..2000 {
        if holds(manager) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {what}: {:?} {:?}", manager.stats(), manager.list());
}
