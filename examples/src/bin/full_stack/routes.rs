//! The routes: one for each thing that a service does.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Request, State},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;
use stellane_core::{
    Components, drain_token,
    pool::{JobError, WorkerPool, WorkerPoolLayer},
    router::{BuildReport, Json, Path, Router},
};
use tower::{Layer, service_fn};

use crate::database::{Database, User};

/// What handlers share; each field is a cheap handle.
#[derive(Clone)]
struct App {
    database: Database,
    workers: WorkerPool,
}

pub(crate) fn router(components: &Components, database: &Database) -> Result<Router, BuildReport> {
    let app = App {
        database: database.clone(),
        workers: components.workers.clone(),
    };
    Router::builder()
        .with_state(app)
        .get("/hello", hello)
        .get("/hello/{name}", hello_name)
        .get("/primes/{below:u32}", primes)
        .get("/users/{id}", user)
        .get("/block/{millis:u32}", block)
        .get("/events", events)
        .post("/upload", upload)
        .get("/sleep", sleep)
        .get("/panic", panic)
        // Any tower service is a route; this one runs on the worker pool as a whole.
        .route(
            Method::GET,
            "/thread",
            WorkerPoolLayer::new(&components.workers).layer(service_fn(thread)),
        )
        .build()
}

async fn hello() -> &'static str {
    "Hello, world!"
}

#[derive(Serialize)]
struct Hello {
    hello: String,
}

async fn hello_name(Path(name): Path<String>) -> Json<Hello> {
    Json(Hello { hello: name })
}

#[derive(Serialize)]
struct Primes {
    below: u32,
    primes: u32,
}

/// Burns CPU: on the worker pool, where it stalls nobody.
async fn primes(Path(below): Path<u32>, State(app): State<App>) -> Result<Json<Primes>, Failure> {
    if below > 5_000_000 {
        return Err(Failure::TooMuch);
    }
    let primes = app
        .workers
        .spawn_blocking(move || count_primes(below))
        .await?;
    Ok(Json(Primes { below, primes }))
}

fn count_primes(below: u32) -> u32 {
    let is_prime = |n: u32| {
        (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
    };
    (2..below).filter(|n| is_prime(*n)).count() as u32
}

async fn user(Path(id): Path<u32>, State(app): State<App>) -> Result<Json<User>, Failure> {
    let database = app.database.clone();
    let user = app
        .workers
        .spawn_blocking(move || database.user(id))
        .await??;
    user.map(Json).ok_or(Failure::NoSuchUser)
}

/// Blocks a thread without burning CPU, as a slow database driver does: what a pool with too few workers
/// is bad at.
async fn block(Path(millis): Path<u32>, State(app): State<App>) -> Result<&'static str, Failure> {
    if millis > 10_000 {
        return Err(Failure::TooMuch);
    }
    let pause = Duration::from_millis(millis.into());
    app.workers
        .spawn_blocking(move || std::thread::sleep(pause))
        .await?;
    Ok("blocked")
}

/// Counts the ticks of a clock until the client leaves or the server drains.
async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::unfold(0_u64, |tick| async move {
        if tick > 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Some((
            Ok(Event::default().event("tick").data(tick.to_string())),
            tick + 1,
        ))
    });
    Sse::new(ticks.take_until(Box::pin(drain_token().cancelled_owned())))
}

#[derive(Serialize)]
struct Uploaded {
    received_bytes: u64,
}

/// Reads a body of any length without keeping it.
async fn upload(request: Request) -> Result<Json<Uploaded>, Failure> {
    let mut body = request.into_body();
    let mut received_bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            received_bytes += data.len() as u64;
        }
    }
    Ok(Json(Uploaded { received_bytes }))
}

/// Takes its time, so that a client can leave before the answer.
async fn sleep() -> &'static str {
    tokio::time::sleep(Duration::from_secs(5)).await;
    "slept for 5 s"
}

async fn panic() -> &'static str {
    panic!("asked to")
}

async fn thread<B>(_: http::Request<B>) -> Result<http::Response<String>, Infallible> {
    let name = std::thread::current()
        .name()
        .unwrap_or("unnamed")
        .to_owned();
    Ok(http::Response::new(name))
}

/// Why a request got no answer of its own.
enum Failure {
    TooMuch,
    NoSuchUser,
    Job(JobError),
    Database(rusqlite::Error),
    Body(axum::Error),
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<axum::Error> for Failure {
    fn from(error: axum::Error) -> Self {
        Self::Body(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::TooMuch => (StatusCode::BAD_REQUEST, "at most 5000000").into_response(),
            Self::NoSuchUser => (StatusCode::NOT_FOUND, "no such user").into_response(),
            Self::Job(JobError::Overloaded) => {
                (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response()
            }
            Self::Body(error) if is_too_large(&error) => {
                StatusCode::PAYLOAD_TOO_LARGE.into_response()
            }
            Self::Body(_) => StatusCode::BAD_REQUEST.into_response(),
            Self::Job(error) => internal(&error),
            Self::Database(error) => internal(&error),
        }
    }
}

/// What failed is for the log, not for the client.
fn internal(error: &dyn std::error::Error) -> Response {
    tracing::error!(%error, "request failed");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

fn is_too_large(error: &axum::Error) -> bool {
    std::iter::successors(Some(error as &dyn std::error::Error), |error| {
        error.source()
    })
    .any(|error| error.is::<http_body_util::LengthLimitError>())
}
