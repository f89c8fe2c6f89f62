//! Stellane with everything on: connections, metrics, limit, router, worker pool, tuner, admin address.

use axum::{
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use stellane_core::{
    Components, Runtime, RuntimeConfig, logging,
    metrics::RouteLabelLayer,
    pool::{JobError, WorkerPool},
    router::{BuildReport, Json, Path, Router},
};

use super::{
    BoxError, Settings, shared_runtime,
    work::{
        DOWNLOAD, Databases, Greeting, HELLO, Primes, Upload, Uploaded, User, count_primes, pieces,
    },
};
use crate::tls;

#[derive(Clone)]
struct App {
    databases: Databases,
    uploads: std::sync::Arc<str>,
    workers: WorkerPool,
}

pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let runtime = Runtime::builder()
            .config(config(settings)?)
            .purge_hook(crate::purge)
            .try_service_with(|components| {
                Ok::<_, BoxError>(router(
                    components,
                    settings.databases()?,
                    &settings.uploads,
                )?)
            })
            .build()?;
        until_end!(runtime, settings)
    })
}

/// The same around axum's router.
pub(super) fn serve_axum(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let router = super::axum::router(settings)?;
        let runtime = Runtime::builder()
            .config(config(settings)?)
            .purge_hook(crate::purge)
            .service(router.route_layer(RouteLabelLayer::axum()))
            .build()?;
        until_end!(runtime, settings)
    })
}

/// Binds, tells the harness, and serves until the end.
macro_rules! until_end {
    ($runtime:ident, $settings:ident) => {{
        let bound = $runtime.bind(&$settings.address.to_string()).await?;
        $crate::peers::ready(bound.local_addr())?;
        bound.serve().await?;
        Ok(())
    }};
}
pub(super) use until_end;

pub(super) fn config(settings: &Settings) -> Result<RuntimeConfig, BoxError> {
    let mut config = RuntimeConfig::from_env()?;
    config.server.admin_address = "127.0.0.1:0".to_owned();
    config.connection.max_connections = 0;
    config.connection.listen.reuse_port = true;
    config.connection.listen.backlog = 4096;
    if let Some(folder) = &settings.tls {
        let file = |name| folder.join(name).to_string_lossy().into_owned();
        config.connection.tls.certificate = file(tls::CERTIFICATE);
        config.connection.tls.key = file(tls::KEY);
    }
    if settings.logs {
        // It writes until the process ends.
        std::mem::forget(logging::init(&config.log)?);
        config.access_log.enabled = true;
    }
    Ok(config)
}

fn router(
    components: &Components,
    databases: Databases,
    uploads: &str,
) -> Result<Router, BuildReport> {
    let app = App {
        databases,
        uploads: uploads.into(),
        workers: components.workers.clone(),
    };
    Router::builder()
        .with_state(app)
        .get("/hello", || async { HELLO })
        .get("/hello/{name}", hello)
        .get("/cpu/{below}", cpu)
        .get("/sqlite/{id}", sqlite)
        .get("/postgres/{id}", postgres)
        .get("/slow", super::axum::slow)
        .get("/stream", || async { Body::from_stream(pieces()) })
        .get("/download", || async { &DOWNLOAD[..] })
        .post("/upload", upload)
        .post("/upload/disk", upload_to_disk)
        .build()
}

async fn hello(Path(name): Path<String>) -> Json<Greeting<String>> {
    Json(Greeting { hello: name })
}

async fn cpu(Path(below): Path<u32>, State(app): State<App>) -> Result<Json<Primes>, Failure> {
    let primes = app
        .workers
        .spawn_blocking(move || count_primes(below))
        .await?;
    Ok(Json(Primes { primes }))
}

async fn sqlite(Path(id): Path<i32>, State(app): State<App>) -> Result<Json<User>, Failure> {
    let databases = app.databases.clone();
    let user = app
        .workers
        .spawn_blocking(move || databases.sqlite(id))
        .await??;
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
        if let Some(JobError::Overloaded) = self.0.downcast_ref() {
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response();
        }
        eprintln!("error: {}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
