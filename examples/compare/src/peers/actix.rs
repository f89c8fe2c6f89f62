//! actix-web as its documentation shows it.

use actix_web::{
    App, HttpServer, ResponseError, get, post,
    web::{self, Data, Json, Path, Payload},
};
use futures_util::StreamExt;

use super::{
    BoxError, Settings, ready,
    work::{Databases, Greeting, HELLO, Primes, Upload, Uploaded, User, count_primes},
};

pub(super) fn serve(settings: &Settings) -> Result<(), BoxError> {
    let listener = settings.listen()?;
    let address = listener.local_addr()?;
    let databases = settings.databases()?;
    let uploads = settings.uploads.clone();
    let workers = settings.workers;
    actix_web::rt::System::new().block_on(async move {
        let app = move || {
            App::new()
                .app_data(Data::new(databases.clone()))
                .app_data(Data::new(uploads.clone()))
                .service((hello, hello_name, cpu))
                .service((sqlite, postgres, upload, upload_to_disk))
        };
        let server = HttpServer::new(app)
            .workers(workers)
            // As many as the other servers may have.
            .max_connections(100_000)
            .backlog(4096)
            .listen(listener)?
            .run();
        ready(address)?;
        Ok(server.await?)
    })
}

#[get("/hello")]
async fn hello() -> &'static str {
    HELLO
}

#[get("/hello/{name}")]
async fn hello_name(name: Path<String>) -> Json<Greeting<String>> {
    Json(Greeting {
        hello: name.into_inner(),
    })
}

#[get("/cpu/{below}")]
async fn cpu(below: Path<u32>) -> Result<Json<Primes>, Failure> {
    let primes = web::block(move || count_primes(*below)).await?;
    Ok(Json(Primes { primes }))
}

#[get("/sqlite/{id}")]
async fn sqlite(id: Path<i32>, databases: Data<Databases>) -> Result<Json<User>, Failure> {
    Ok(Json(web::block(move || databases.sqlite(*id)).await??))
}

#[get("/postgres/{id}")]
async fn postgres(id: Path<i32>, databases: Data<Databases>) -> Result<Json<User>, Failure> {
    Ok(Json(databases.postgres(*id).await?))
}

#[post("/upload")]
async fn upload(payload: Payload) -> Result<Json<Uploaded>, Failure> {
    receive(Upload::to_nowhere(), payload).await
}

#[post("/upload/disk")]
async fn upload_to_disk(payload: Payload, folder: Data<String>) -> Result<Json<Uploaded>, Failure> {
    receive(Upload::to_disk(&folder).await?, payload).await
}

async fn receive(mut sink: Upload, mut payload: Payload) -> Result<Json<Uploaded>, Failure> {
    while let Some(data) = payload.next().await {
        sink.write(&data?).await?;
    }
    Ok(Json(sink.end().await?))
}

#[derive(Debug)]
struct Failure(BoxError);

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Failure {}
