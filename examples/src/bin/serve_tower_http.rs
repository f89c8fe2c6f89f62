//! tower-http beside ours: `[http]` of the configuration puts its layers for request ids, CORS and compression in their
//! places around the preset; layers of one's own stand on both sides of it.
//!
//! ```text
//! cargo run -p stellane-examples --bin serve_tower_http [ADDRESS]
//! curl -i --compressed -H 'origin: https://app.example.com' http://127.0.0.1:3000/
//! curl -i http://127.0.0.1:3000/panic
//! ```

use axum::{Router, routing::get};
use http::{HeaderName, HeaderValue};
use stellane_core::{BoxError, RuntimeConfig, config::Loader, serve};
use tower_http::set_header::SetResponseHeaderLayer;

const CONFIG: &str = r#"
    [server]
    admin_address = ""
    [http.request_id]
    enabled = true
    [http.cors]
    allow_origins = ["https://app.example.com"]
    [http.compression]
    enabled = true
"#;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let config: RuntimeConfig = Loader::new().text("here", CONFIG).load()?;
    let set = |name, value| {
        let (name, value) = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        SetResponseHeaderLayer::overriding(name, value)
    };
    let app = Router::new()
        .route(
            "/",
            get(async || "a line that is worth compressing\n".repeat(100)),
        )
        .route("/panic", get(async || -> () { panic!("on purpose") }))
        // Within the preset: what is refused or fails has it not.
        .layer(set("x-within", "yes"));
    let server = serve(address, app)
        .config(config)
        // Around it: everything has it.
        .outer_layer(set("x-around", "yes"))
        .bind()
        .await?;
    let address = server.local_addr();
    println!("serving http://{address}/, try: curl -i --compressed http://{address}/");
    server.serve().await?;
    Ok(())
}
