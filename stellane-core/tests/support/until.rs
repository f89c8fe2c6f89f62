use stellane_core::connection::ConnectionManager;

use crate::looks::holds_soon;

/// Waits until the manager agrees; a test that waits in vain fails by its own timeout.
pub(crate) async fn until(
    manager: &ConnectionManager,
    what: &str,
    holds: impl Fn(&ConnectionManager) -> bool,
) {
    assert!(
        holds_soon(async || holds(manager)).await,
        "never {what}: {:?} {:?}",
        manager.stats(),
        manager.list()
    );
}
