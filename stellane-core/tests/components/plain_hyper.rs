//! Every component alone in plain hyper-util, where nothing else of ours is: the rows are in `support/components.rs`,
//! and `axum_serve.rs` is the same in axum.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use stellane_core::{BoxError, connection::ConnectInfo};
use tokio::net::TcpListener;
use tower::{Layer, Service};

#[path = "../support/components.rs"]
mod components;

use components::Handler;

/// The handler as a service of requests with any body.
#[derive(Clone)]
struct App(Handler);

fn app(handler: Handler) -> App {
    App(handler)
}

impl<B> Service<Request<B>> for App {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = (self.0)(request.into_parts().0);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// Serves it by hyper-util.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let http = auto::Builder::new(TokioExecutor::new());
                http.serve_connection(TokioIo::new(socket), service).await
            });
        }
    });
    address
}

/// A layer that labels routes, by whatever knows them.
fn labelled(
    handler: Handler,
) -> <stellane_core::metrics::RouteLabelLayer<Template> as Layer<App>>::Service {
    stellane_core::metrics::RouteLabelLayer::with_request_route(Template).layer(app(handler))
}

/// Finds the template of the one route that there is.
#[derive(Clone, Copy)]
struct Template;

impl<B> stellane_core::metrics::RequestRoute<B> for Template {
    fn route<'a>(&self, request: &'a Request<B>) -> Option<&'a str> {
        request
            .uri()
            .path()
            .starts_with("/users/")
            .then_some("/users/{id}")
    }
}

/// A make-service of one's own.
fn make(handler: Handler) -> Make {
    Make(handler)
}

#[derive(Clone)]
struct Make(Handler);

impl Service<ConnectInfo> for Make {
    type Response = App;
    type Error = Infallible;
    type Future = Ready<Result<App, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: ConnectInfo) -> Self::Future {
        ready(Ok(app(self.0.clone())))
    }
}

/// The section of the documentation of the crate.
fn table() -> String {
    let docs = include_str!("../../src/lib.rs");
    let (_, table) = docs.split_once("# Components\n").expect("its section");
    let (table, _) = table.split_once("\n//! # ").expect("another section");
    table.to_owned()
}

#[test]
fn the_table_of_the_documentation_names_these_tests() {
    let rows = include_str!("../support/components.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = table();
    let table = table.lines().filter(|line| line.starts_with("//! | "));
    let named: Vec<_> = table
        .filter_map(|line| line.strip_suffix(" |")?.rsplit_once(" | "))
        .flat_map(|(_, tests)| tests.split('`').filter(|name| name.contains('_')))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let exists = match name.contains('/') {
            true => root.join(name).exists() || root.join("..").join(name).exists(),
            false => rows.contains(&format!("async fn {name}()")),
        };
        assert!(exists, "{name}");
    }
}

#[test]
fn the_table_of_the_documentation_knows_every_layer() {
    let table = table();
    let mut found = 0;
    for krate in ["autotune", "core", "metrics", "pool", "router"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut folders = vec![root.join(format!("stellane-{krate}/src"))];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("there") {
                let path = entry.expect("there").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                let code = std::fs::read_to_string(&path).unwrap_or_default();
                for line in code.lines() {
                    let Some(rest) = line.strip_prefix("pub struct ") else {
                        continue;
                    };
                    let name = rest.split(|c: char| !c.is_alphanumeric()).next();
                    let name = name.expect("a name");
                    if name.ends_with("Layer") {
                        found += 1;
                        assert!(table.contains(&format!("`{name}`")), "{name} of {path:?}");
                    }
                }
            }
        }
    }
    assert!(found > 20, "{found}");
}
