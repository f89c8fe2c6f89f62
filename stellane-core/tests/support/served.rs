use std::net::SocketAddr;

use stellane_core::connection::{ConnectionConfig, ConnectionManager, HttpService, Listener};

/// A manager that serves on a port of its own, for as long as the test runs.
pub(crate) async fn served(
    config: ConnectionConfig,
    service: impl HttpService,
    prepare: impl FnOnce(Listener) -> Listener,
) -> (ConnectionManager, SocketAddr) {
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let listener = Listener::bind("127.0.0.1:0", &manager.config().listen)
        .await
        .expect("binds");
    let address = listener.local_addr().expect("TCP");
    tokio::spawn(manager.serve(prepare(listener), service));
    (manager, address)
}
