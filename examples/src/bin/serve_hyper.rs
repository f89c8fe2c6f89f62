//! A service of hyper's own (`call(&self)`), moved in: the loop that accepts and serves connections goes, the type of the
//! request's body changes.
//!
//! ```diff
//! -async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
//! +async fn answer(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, BoxError> {
//! ...
//! -    let listener = TcpListener::bind(address).await?;
//! -    loop {
//! -        let (stream, _) = listener.accept().await?;
//! -        tokio::spawn(async move {
//! -            let served = auto::Builder::new(TokioExecutor::new())
//! -                .serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer))
//! -                .await;
//! -            if let Err(error) = served {
//! -                eprintln!("{error}");
//! -            }
//! -        });
//! -    }
//! +    stellane_core::serve(address, HyperService(service_fn(answer))).await?;
//! ```
//!
//! `cargo run -p stellane-examples --bin serve_hyper`, with an address if it is not to be 127.0.0.1:3000.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use stellane_core::{BoxError, HyperService, RequestBody};

async fn answer(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, BoxError> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(body)))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let app = HyperService(service_fn(answer));
    let server = stellane_core::serve(address, app).bind().await?;
    println!("serving http://{}/", server.local_addr());
    server.serve().await?;
    Ok(())
}
