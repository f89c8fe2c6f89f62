//! `stellane-router` alone: a tower service, here called without a server.
//!
//! `cargo run -p stellane-examples --bin alone_router [PATH]`

use std::error::Error;

use http::Request;
use http_body_util::{BodyExt, Empty};
use stellane_core::router::{Body, Path, Router};
use tower::ServiceExt;

async fn user(Path(id): Path<u64>) -> String {
    format!("user {id}")
}

async fn file(Path((name, kind)): Path<(String, String)>) -> String {
    format!("file {name} of kind {kind}")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = Router::builder()
        .get("/users/{id:u64}", user)
        .get("/files/{name}.{kind}", file)
        .build()?;
    let path = std::env::args().nth(1);
    let paths = path.map_or(
        vec!["/users/7".to_owned(), "/files/a.tar.gz".to_owned()],
        |one| vec![one],
    );
    for path in paths {
        println!("{}", router.explain(&path));
        let request = Request::get(&path).body(Body::new(Empty::<bytes::Bytes>::new()))?;
        let answer = router.clone().oneshot(request).await?;
        let status = answer.status();
        let text = answer.into_body().collect().await?.to_bytes();
        println!("GET {path}: {status} {}", String::from_utf8_lossy(&text));
    }
    println!("try another path as an argument");
    Ok(())
}
