//! hyper without a framework, on runtimes of one thread each or on the shared one, and the same service
//! behind Stellane's connection manager.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use serde::Serialize;
use stellane_core::connection::ConnectionManager;

use super::{
    BoxError, Settings, ready as tell, shared_runtime, terminated,
    work::{Databases, Greeting, HELLO, Primes, Upload, count_primes},
};

type Answer = Result<Response<Full<Bytes>>, Infallible>;
type Boxed = Pin<Box<dyn Future<Output = Answer> + Send>>;

#[derive(Clone)]
struct App {
    databases: Databases,
    uploads: String,
}

/// One thread and one runtime for each worker, with a listening socket each.
pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    thread_per_core(settings, |settings, listener| async move {
        let app = leak(&settings)?;
        accept(listener, app).await
    })
}

/// The same on `#[tokio::main]`.
pub(super) fn serve_shared(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(settings.listen()?)?;
        tell(listener.local_addr()?)?;
        accept(listener, leak(settings)?).await
    })
}

/// The connection manager alone, on threads as bare hyper.
pub(super) fn serve_managed(settings: &Settings) -> Result<(), BoxError> {
    thread_per_core(settings, |settings, listener| async move {
        let app = leak(&settings)?;
        let mut config = stellane_core::connection::ConnectionConfig::default();
        config.max_connections = 0;
        let manager = ConnectionManager::builder()
            .config(config)
            .purge_hook(crate::purge)
            .build()?;
        let serving = manager.serve(listener, tower::service_fn(move |r| answer(app, r)));
        let draining = async {
            terminated().await;
            manager.drain(Duration::from_secs(30)).await;
        };
        let (served, ()) = tokio::join!(serving, draining);
        Ok(served?)
    })
}

fn thread_per_core<F, Fut>(settings: &Settings, serve: F) -> Result<(), BoxError>
where
    F: Fn(Settings, tokio::net::TcpListener) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = Result<(), BoxError>>,
{
    let first = settings.listen()?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..settings.workers {
        listeners.push(super::listen(address)?);
    }
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let settings = settings.clone();
            thread::spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(async {
                        serve(settings, tokio::net::TcpListener::from_std(listener)?).await
                    })
            })
        })
        .collect();
    tell(address)?;
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, app: &'static App) -> Result<(), BoxError> {
    let graceful = GracefulShutdown::new();
    let mut terminated = std::pin::pin!(terminated());
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut terminated => break,
        };
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| answer(app, request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(graceful.watch(connection));
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

/// The service needs it as long as the process lives.
fn leak(settings: &Settings) -> Result<&'static App, BoxError> {
    Ok(Box::leak(Box::new(App {
        databases: settings.databases()?,
        uploads: settings.uploads.clone(),
    })))
}

/// Answers at once what can be answered at once; only the rest is boxed.
fn answer<B>(app: &'static App, request: Request<B>) -> Either<Ready<Answer>, Boxed>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let path = request.uri().path();
    if request.method() == Method::POST {
        let to_disk = match path {
            "/upload" => false,
            "/upload/disk" => true,
            _ => return at_once(empty(StatusCode::NOT_FOUND)),
        };
        return later(async move {
            let upload = match to_disk {
                true => Upload::to_disk(&app.uploads).await?,
                false => Upload::to_nowhere(),
            };
            upload.receive(request.into_body()).await
        });
    }
    if path == "/hello" {
        return at_once(with_type(
            "text/plain; charset=utf-8",
            Bytes::from_static(HELLO.as_bytes()),
        ));
    }
    let Some((route, argument)) = path[1..].split_once('/') else {
        return at_once(empty(StatusCode::NOT_FOUND));
    };
    if route == "hello" {
        return at_once(json(&Greeting { hello: argument }));
    }
    let Ok(number) = argument.parse::<i32>() else {
        return at_once(empty(StatusCode::NOT_FOUND));
    };
    match route {
        "cpu" => later(async move {
            let work = move || count_primes(number.unsigned_abs());
            let primes = tokio::task::spawn_blocking(work).await?;
            Ok(Primes { primes })
        }),
        "sqlite" => later(async move {
            tokio::task::spawn_blocking(move || app.databases.sqlite(number)).await?
        }),
        "postgres" => later(app.databases.postgres(number)),
        _ => at_once(empty(StatusCode::NOT_FOUND)),
    }
}

fn at_once(response: Response<Full<Bytes>>) -> Either<Ready<Answer>, Boxed> {
    Either::Left(ready(Ok(response)))
}

fn later<T: Serialize>(
    work: impl Future<Output = Result<T, BoxError>> + Send + 'static,
) -> Either<Ready<Answer>, Boxed> {
    Either::Right(Box::pin(async move {
        Ok(match work.await {
            Ok(value) => json(&value),
            Err(error) => {
                eprintln!("error: {error}");
                empty(StatusCode::INTERNAL_SERVER_ERROR)
            }
        })
    }))
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => with_type("application/json", body.into()),
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn with_type(content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
