//! [`EngineSelectorLayer`]: chosen routes go to an accelerated service, the rest to the native one, and so does
//! whatever the accelerated one can't answer.
//!
//! The native service answers when the accelerated one
//! - is not ready at the moment of the call (it is never waited for),
//! - [declines](Declined) the request, fails or panics before it has produced a response,
//! - takes longer than [`SelectorConfig::timeout`] for it,
//! - or has failed so often that its circuit breaker is open.
//!
//! **Nothing is done twice.** A request goes to the accelerated service only if it could be sent again: by the
//! default [`FallbackMode::Safe`] those are `GET`, `HEAD`, `OPTIONS` and `TRACE`. All others go to the native service at
//! once. So a client sees no error of the accelerated service, and no side effect happens twice.
//!
//! What was an error once the response head is out stays one: a body that breaks is not begun anew.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use stellane_core::engine_selector::{EngineSelector, EngineSelectorLayer, SelectorConfig};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let mut config = SelectorConfig::default();
//! config.accelerated_routes = vec!["/users/{id}".to_owned()];
//! let selector = EngineSelector::builder().config(config).build()?;
//!
//! let accelerated = service_fn(|_| async { Err::<Response<String>, _>(std::io::Error::other("down")) });
//! let native = service_fn(|_| async { Ok::<_, Infallible>(Response::new("native".to_owned())) });
//! let service = EngineSelectorLayer::new(&selector, accelerated).layer(native);
//!
//! let request = Request::get("/users/7").body(String::new())?;
//! let response = service.oneshot(request).await?;
//! assert!(response.status().is_success());
//! assert_eq!(selector.stats().errors, 1);
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! ```

mod body;
mod breaker;
mod config;
mod future;
mod handle;
mod layer;
mod replay;
mod service;

pub use self::{
    body::EngineSelectorBody,
    breaker::BreakerState,
    config::{FallbackMode, SelectorConfig},
    future::EngineSelectorFuture,
    handle::{BuildError, EngineSelector, EngineSelectorBuilder, SelectorStats},
    layer::EngineSelectorLayer,
    replay::ReplayBody,
    service::EngineSelectorService,
};
pub use crate::config_error::ConfigError;

/// The error by which an accelerated service hands a request back that is not for it: the native service answers, and
/// the circuit breaker does not mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declined;

impl std::fmt::Display for Declined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("declined: the native service answers")
    }
}

impl std::error::Error for Declined {}
