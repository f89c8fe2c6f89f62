//! tonic's services, moved in by two lines: `cargo add stellane-core --features tonic-014`, and
//!
//! ```diff
//! -    Server::builder().add_service(health).serve(address).await?;
//! +    stellane_core::serve(address, Routes::new(health)).await?;
//! ```
//!
//! Services may find a `TcpConnectInfo` (`Request::remote_addr()`), deadlines of clients are kept, and refusals, panics and
//! errors are answered by a `grpc-status`.
//!
//! `cargo run -p stellane-examples --bin serve_tonic`, with an address if it is not to be 127.0.0.1:3000.

use std::error::Error;

use tonic::service::Routes;
use tonic_health::server::health_reporter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let (_reporter, health) = health_reporter();
    let server = stellane_core::serve(address, Routes::new(health))
        .bind()
        .await?;
    println!("serving http://{}/", server.local_addr());
    server.serve().await?;
    Ok(())
}
