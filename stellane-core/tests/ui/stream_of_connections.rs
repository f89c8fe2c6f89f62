//~ can't be listened on
//~ a stream of connections through `stellane_core::connections`
async fn example(listener: tokio::net::TcpListener) {
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let _ = stellane_core::serve(incoming, axum::Router::new()).await;
}

fn main() {
    let _ = example;
}
