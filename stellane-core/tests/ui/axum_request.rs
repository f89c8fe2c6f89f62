//~ through `stellane_core::AxumService`
use axum::{Router, extract::Request, middleware, response::Response};
use tower::Layer;

async fn logged(request: Request, next: middleware::Next) -> Response {
    next.run(request).await
}

fn main() {
    let app = middleware::from_fn(logged).layer(Router::<()>::new());
    let _ = stellane_core::serve("127.0.0.1:0", app);
}
