//! axum as its documentation shows it.

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};

use super::{
    BoxError, Settings, ready, shared_runtime, terminated,
    work::{Databases, Greeting, HELLO, Primes, Upload, Uploaded, User, count_primes},
};

#[derive(Clone)]
struct App {
    databases: Databases,
    uploads: std::sync::Arc<str>,
}

pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(settings.listen()?)?;
        ready(listener.local_addr()?)?;
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, router(settings)?)
            .with_graceful_shutdown(terminated())
            .await?)
    })
}

fn router(settings: &Settings) -> Result<Router, BoxError> {
    let app = App {
        databases: settings.databases()?,
        uploads: settings.uploads.as_str().into(),
    };
    Ok(Router::new()
        .route("/hello", get(|| async { HELLO }))
        .route("/hello/{name}", get(hello))
        .route("/cpu/{below}", get(cpu))
        .route("/sqlite/{id}", get(sqlite))
        .route("/postgres/{id}", get(postgres))
        .route("/upload", post(upload))
        .route("/upload/disk", post(upload_to_disk))
        .with_state(app))
}

async fn hello(Path(name): Path<String>) -> Json<Greeting<String>> {
    Json(Greeting { hello: name })
}

async fn cpu(Path(below): Path<u32>) -> Result<Json<Primes>, Failure> {
    let primes = tokio::task::spawn_blocking(move || count_primes(below)).await?;
    Ok(Json(Primes { primes }))
}

async fn sqlite(Path(id): Path<i32>, State(app): State<App>) -> Result<Json<User>, Failure> {
    let user = tokio::task::spawn_blocking(move || app.databases.sqlite(id)).await??;
    Ok(Json(user))
}

async fn postgres(Path(id): Path<i32>, State(app): State<App>) -> Result<Json<User>, Failure> {
    Ok(Json(app.databases.postgres(id).await?))
}

async fn upload(request: Request) -> Result<Json<Uploaded>, Failure> {
    Ok(Json(
        Upload::to_nowhere().receive(request.into_body()).await?,
    ))
}

async fn upload_to_disk(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Uploaded>, Failure> {
    let upload = Upload::to_disk(&app.uploads).await?;
    Ok(Json(upload.receive(request.into_body()).await?))
}

struct Failure(BoxError);

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("error: {}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
