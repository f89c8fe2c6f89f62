//! axum as its documentation shows it.

use std::{path::Path, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{self, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::Level;

use super::{
    BoxError, Settings, ready, shared_runtime, terminated,
    work::{
        DOWNLOAD, Databases, Greeting, HELLO, Primes, SLOW, Upload, Uploaded, User, count_primes,
        pieces,
    },
};
use crate::tls;

#[derive(Clone)]
struct App {
    databases: Databases,
    uploads: Arc<str>,
}

pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    shared_runtime(settings.workers)?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(settings.listen()?)?;
        ready(listener.local_addr()?)?;
        let mut router = router(settings)?;
        if settings.logs {
            tracing_subscriber::fmt().json().init();
            let each = DefaultOnResponse::new().level(Level::INFO);
            router = router.layer(TraceLayer::new_for_http().on_response(each));
        }
        if let Some(folder) = &settings.tls {
            return serve_tls(listener, router, folder).await;
        }
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, router)
            .with_graceful_shutdown(terminated())
            .await?)
    })
}

/// As in axum's example `low-level-rustls`.
async fn serve_tls(
    listener: tokio::net::TcpListener,
    router: Router,
    folder: &Path,
) -> Result<(), BoxError> {
    let certificate = CertificateDer::from_pem_file(folder.join(tls::CERTIFICATE))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(tls::KEY))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = TowerToHyperService::new(router);
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

pub(super) fn router(settings: &Settings) -> Result<Router, BoxError> {
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
        .route("/slow", get(slow))
        .route("/stream", get(|| async { Body::from_stream(pieces()) }))
        .route("/download", get(|| async { &DOWNLOAD[..] }))
        .route("/upload", post(upload))
        .route("/upload/disk", post(upload_to_disk))
        .with_state(app))
}

pub(super) async fn slow() -> &'static str {
    tokio::time::sleep(SLOW).await;
    HELLO
}

async fn hello(extract::Path(name): extract::Path<String>) -> Json<Greeting<String>> {
    Json(Greeting { hello: name })
}

async fn cpu(extract::Path(below): extract::Path<u32>) -> Result<Json<Primes>, Failure> {
    let primes = tokio::task::spawn_blocking(move || count_primes(below)).await?;
    Ok(Json(Primes { primes }))
}

async fn sqlite(
    extract::Path(id): extract::Path<i32>,
    State(app): State<App>,
) -> Result<Json<User>, Failure> {
    let user = tokio::task::spawn_blocking(move || app.databases.sqlite(id)).await??;
    Ok(Json(user))
}

async fn postgres(
    extract::Path(id): extract::Path<i32>,
    State(app): State<App>,
) -> Result<Json<User>, Failure> {
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
