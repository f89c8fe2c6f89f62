//! [`CatchFaultsLayer`]: a handler that panics or fails costs its own request and nothing else.
//!
//! - A panic while the service is called, while its future is polled or while its response body is
//!   polled is caught. Before the response head the client gets 500; later only its response is cut
//!   short. The connection and the server live on.
//! - An error of the service becomes a response: what a [`Refusal`] says, 413 when a body limit stands
//!   behind it, else 500.
//!
//! gRPC is told in its own way: status 200, `grpc-status` and `grpc-message` in the headers, no body.
//!
//! Both are counted and logged, so a service with faults looks like one.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use stellane_core::catch_faults::{CatchFaultsLayer, Faults};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let faults = Faults::new();
//! let service = CatchFaultsLayer::new(&faults).layer(service_fn(|_: Request<()>| async {
//!     if true { panic!("boom") }
//!     Ok::<_, std::io::Error>(Response::new(String::new()))
//! }));
//! let response = service.oneshot(Request::new(())).await?;
//! assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
//! assert_eq!(faults.stats().panics, 1);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod body;
mod faults;
mod future;
mod grpc;
mod layer;
mod refusal;
mod service;

pub(crate) use self::faults::FaultCounter;
pub use self::{
    body::CatchFaultsBody,
    faults::{FaultStats, Faults},
    future::CatchFaultsFuture,
    layer::CatchFaultsLayer,
    refusal::Refusal,
    service::CatchFaultsService,
};
#[cfg(feature = "preset")]
pub(crate) use self::{
    faults::{message, told},
    future::Failure,
    grpc::Grpc,
};
