//! An axum program that moved in by two lines: `cargo add stellane-core --features axum-08`, and `stellane_core::serve` in
//! the place of `axum::serve`. State, the peer's address, a WebSocket, server-sent events and static files are as before.
//!
//! ```diff
//! -    axum::serve(listener, app).await?;
//! +    stellane_core::serve(listener, app).await?;
//! ```
//!
//! `cargo run -p stellane-examples --bin serve_axum`, with an address if it is not to be 127.0.0.1:3000.

use std::{
    convert::Infallible,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{
    Router,
    extract::{
        ConnectInfo, State,
        ws::{WebSocket, WebSocketUpgrade},
    },
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{any, get},
};
use futures_util::stream::{self, Stream};
use tower_http::services::ServeDir;

type Visits = Arc<AtomicU64>;

async fn hello(State(visits): State<Visits>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    let visit = visits.fetch_add(1, Relaxed) + 1;
    format!("hello, {}, for the {visit}. time\n", peer.ip())
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

async fn ticks() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = (0..3).map(|tick| Ok(Event::default().data(format!("tick {tick}"))));
    Sse::new(stream::iter(ticks))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let app = Router::new()
        .route("/", get(hello))
        .route("/echo", any(echo))
        .route("/ticks", get(ticks))
        .nest_service("/files", ServeDir::new(env!("CARGO_MANIFEST_DIR")))
        .with_state(Visits::default());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("serving http://{}/", listener.local_addr()?);
    stellane_core::serve(listener, app).await?;
    Ok(())
}
