//! Every component alone in a stack of `axum::serve`, where nothing else of ours is: the rows are in
//! `support/components.rs`, and `plain_hyper.rs` is the same without axum.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    response::Response,
    routing::any,
};
use stellane_core::{BoxError, connection::ConnectInfo};
use tokio::net::TcpListener;
use tower::Service;

#[path = "../support/components.rs"]
mod components;

use components::Handler;

/// The handler as an axum router, with a route that has a template.
fn app(handler: Handler) -> Router {
    let answer = move |request: Request| handler(request.into_parts().0);
    Router::new()
        .route("/users/{id}", any(answer.clone()))
        .fallback(answer)
}

/// Serves it by axum, with a router of axum's around.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let app = Router::new().fallback_service(service);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// The template of a route, as axum knows it.
fn template<B>(request: &http::Request<B>) -> Option<&str> {
    let matched = request.extensions().get::<axum::extract::MatchedPath>();
    matched.map(axum::extract::MatchedPath::as_str)
}

/// A layer that labels routes, where axum knows them.
fn labelled(handler: Handler) -> Router {
    app(handler).route_layer(stellane_core::metrics::RouteLabelLayer::new(
        template::<Body>,
    ))
}

/// A make-service, as axum makes one.
fn make(
    handler: Handler,
) -> impl Service<ConnectInfo, Response = Router, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    app(handler).into_make_service()
}
