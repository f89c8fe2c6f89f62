//! Layers of ours in an axum app that keeps `axum::serve`: all of the preset as one layer, which refuses what is too much,
//! counts, and answers panics.
//!
//! ```text
//! cargo run -p stellane-examples --bin layers_axum [ADDRESS]
//! curl -i http://127.0.0.1:3000/
//! curl -i http://127.0.0.1:3000/panic
//! curl http://127.0.0.1:3000/stats
//! ```

use axum::{Router, routing::get};
use stellane_core::{BoxError, Components, RuntimeConfig};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let config = RuntimeConfig::default();
    let components = Components::new(&config)?;
    // What they do beside requests: the limit learns, memory is given back.
    tokio::spawn(components.clone().run());

    let (metrics, limit) = (components.metrics.clone(), components.limit.clone());
    let stats = async move || {
        let (requests, state) = (metrics.stats().requests_total, limit.explain());
        format!("{requests} requests; {state}\n")
    };
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/panic", get(async || -> () { panic!("on purpose") }))
        .route("/stats", get(stats));
    let app = components.layer(&config.server).layer(app);

    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("serving http://{address}/, try: curl -i http://{address}/panic");
    axum::serve(listener, Router::new().fallback_service(app)).await?;
    Ok(())
}
