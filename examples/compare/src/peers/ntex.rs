//! ntex as its documentation shows it, on tokio.

use ntex::web::{
    self, App, HttpServer, WebResponseError,
    types::{Json, Path, Payload, State},
};

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
    ntex::rt::System::new("compare", ntex::rt::DefaultRuntime).block_on(async move {
        let server = HttpServer::new(async move || {
            App::new()
                .state(databases.clone())
                .state(uploads.clone())
                .service((hello, hello_name, cpu))
                .service((sqlite, postgres, upload, upload_to_disk))
        })
        .workers(workers)
        .maxconn(100_000)
        .backlog(4096)
        .listen(listener)?
        .run();
        ready(address)?;
        Ok(server.await?)
    })
}

#[web::get("/hello")]
async fn hello() -> &'static str {
    HELLO
}

#[web::get("/hello/{name}")]
async fn hello_name(name: Path<String>) -> Json<Greeting<String>> {
    Json(Greeting {
        hello: name.into_inner(),
    })
}

#[web::get("/cpu/{below}")]
async fn cpu(below: Path<u32>) -> Result<Json<Primes>, Failure> {
    let below = below.into_inner();
    let primes = ntex::rt::spawn_blocking(move || count_primes(below))
        .await
        .map_err(|_| "the work was cancelled")?;
    Ok(Json(Primes { primes }))
}

#[web::get("/sqlite/{id}")]
async fn sqlite(id: Path<i32>, databases: State<Databases>) -> Result<Json<User>, Failure> {
    let (id, databases) = (id.into_inner(), databases.get_ref().clone());
    let user = ntex::rt::spawn_blocking(move || databases.sqlite(id))
        .await
        .map_err(|_| "the work was cancelled")??;
    Ok(Json(user))
}

#[web::get("/postgres/{id}")]
async fn postgres(id: Path<i32>, databases: State<Databases>) -> Result<Json<User>, Failure> {
    Ok(Json(databases.postgres(id.into_inner()).await?))
}

#[web::post("/upload")]
async fn upload(payload: Payload) -> Result<Json<Uploaded>, Failure> {
    receive(Upload::to_nowhere(), payload).await
}

#[web::post("/upload/disk")]
async fn upload_to_disk(
    payload: Payload,
    folder: State<String>,
) -> Result<Json<Uploaded>, Failure> {
    receive(Upload::to_disk(folder.get_ref()).await?, payload).await
}

async fn receive(mut sink: Upload, mut payload: Payload) -> Result<Json<Uploaded>, Failure> {
    while let Some(data) = payload.recv().await {
        let data = data.map_err(|error| error.to_string())?;
        sink.write(&data).await?;
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

impl WebResponseError for Failure {}
