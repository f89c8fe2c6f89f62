use std::time::Duration;

use stellane_core::connection::ConnectionManager;

/// Waits until the manager agrees; a test that waits in vain fails by its own timeout.
pub(crate) async fn until(
    manager: &ConnectionManager,
    what: &str,
    holds: impl Fn(&ConnectionManager) -> bool,
) {
    let waiting = async {
        while !holds(manager) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .is_err()
    {
        panic!("never {what}: {:?} {:?}", manager.stats(), manager.list());
    }
}
