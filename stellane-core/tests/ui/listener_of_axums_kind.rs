//~ can't be listened on
//~ axum's own kind of listener goes through `stellane_core::axum_listener`
use axum::serve::ListenerExt;

async fn example(listener: tokio::net::TcpListener) {
    let listener = listener.tap_io(|io| drop(io.set_nodelay(true)));
    let _ = stellane_core::serve(listener, axum::Router::new()).await;
}

fn main() {
    let _ = example;
}
