//! A client that leaves before its answer: the work of one route stops at an await, that of another goes on to its end. Under
//! `axum::serve`, with one layer of ours.
//!
//! `cargo run -p stellane-examples --bin client_left [ADDRESS]`

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use stellane_core::on_disconnect::{Abandoned, OnDisconnectLayer};
use tokio::{net::TcpListener, time::sleep};

/// Two writes, and a second between them.
#[derive(Clone, Default)]
struct Orders(Arc<[AtomicU32; 2]>);

async fn place(State(Orders(writes)): State<Orders>) -> &'static str {
    writes[0].fetch_add(1, Relaxed);
    sleep(Duration::from_secs(1)).await;
    writes[1].fetch_add(1, Relaxed);
    "placed\n"
}

async fn count(State(Orders(writes)): State<Orders>) -> String {
    let [first, second] = [0, 1].map(|write| writes[write].load(Relaxed));
    format!("{first} orders begun, {second} whole\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let abandoned = Abandoned::default();
    let finish = OnDisconnectLayer::finish(Duration::from_secs(30)).counted_by(&abandoned);
    let app = Router::new()
        .route("/finish", post(place).layer(finish))
        .route("/cancel", post(place))
        .route("/", get(count))
        .with_state(Orders::default());
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3000")).await?;
    let address = listener.local_addr()?;
    println!(
        "serving http://{address}/, try: curl -m 0.2 -X POST {address}/cancel; curl -m 0.2 -X POST {address}/finish; \
         sleep 1.2; curl {address}/"
    );
    let ends = async {
        // Until Ctrl-C, which says nothing where it can't be heard.
        let _ = tokio::signal::ctrl_c().await;
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(ends)
        .await?;
    // What goes on without its client is waited for here, since this server does not know of it.
    abandoned.drain(Duration::from_secs(30)).await;
    println!("{abandoned:?}");
    Ok(())
}
