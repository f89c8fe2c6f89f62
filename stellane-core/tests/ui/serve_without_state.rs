//~ Router<App>` can't be served
//~ an axum router whose state is missing needs `.with_state(…)`
use axum::{Router, extract::State, routing::get};

#[derive(Clone)]
struct App;

fn main() {
    let app = Router::new().route("/", get(async |State(_): State<App>| "hello"));
    let _ = stellane_core::serve("127.0.0.1:0", app);
}
