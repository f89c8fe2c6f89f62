//! Stellane with everything on: connections, metrics, limit, router, worker pool, tuner, admin address.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use stellane_core::{
    Components, Runtime, RuntimeConfig,
    pool::{JobError, WorkerPool},
    router::{BuildReport, Json, Path, Router},
};

use super::{
    BoxError, Settings, ready, shared_runtime,
    work::{Databases, Greeting, HELLO, Primes, Upload, Uploaded, User, count_primes},
};

#[derive(Clone)]
struct App {
    databases: Databases,
    uploads: std::sync::Arc<str>,
    workers: WorkerPool,
}

pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let mut config = RuntimeConfig::from_env()?;
        config.server.admin_address = "127.0.0.1:0".to_owned();
        config.connection.max_connections = 0;
        config.connection.listen.reuse_port = true;
        config.connection.listen.backlog = 4096;
        let runtime = Runtime::builder()
            .config(config)
            .purge_hook(crate::purge)
            .try_service_with(|components| {
                Ok::<_, BoxError>(router(
                    components,
                    settings.databases()?,
                    &settings.uploads,
                )?)
            })
            .build()?;
        let bound = runtime.bind(&settings.address.to_string()).await?;
        ready(bound.local_addr())?;
        bound.serve().await?;
        Ok(())
    })
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
