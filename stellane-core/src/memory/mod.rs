//! Memory has a bound: [`MemoryBudget`] counts the bytes that bodies hold, and has uploads wait for each other before there
//! are too many.
//!
//! A server that limits requests by their number dies by their size: a hundred uploads of 100 MB that an extractor collects
//! are 10 GB, whatever the limit says, and the system kills the process with all that it serves. With this layer around
//! a service, or in the preset with `memory.budget`, they wait, and only what can't be held at all is refused.
//!
//! ```
//! use axum::{Router, body::Bytes, extract::DefaultBodyLimit, routing::post};
//! use stellane_core::memory::{MemoryBudget, MemoryBudgetLayer};
//!
//! let budget = MemoryBudget::new(200 << 20);
//! let app: Router = Router::new()
//!     .route("/upload", post(async |body: Bytes| body.len().to_string()))
//!     .layer(DefaultBodyLimit::disable())
//!     .layer(MemoryBudgetLayer::new(&budget));
//! assert_eq!(budget.stats().held_bytes, 0);
//! # let _ = app;
//! ```
//!
//! # What counts
//!
//! | | from | until |
//! |---|---|---|
//! | the body of a request, where it is longer than 16 KiB | it is read | its `Bytes` are dropped |
//! | the same of a body that its handler still holds when it is whole, as extractors do, which copy it | it is whole | the request is answered |
//! | a piece of an answer from 4 KiB on; one beyond 128 KiB if nobody else holds it as well | the service has made it | it was sent |
//! | what a handler says that it holds | [`MemoryBudget::hold`] | that is dropped |
//!
//! While three quarters of the budget are free a body's pieces are not followed: they count until it is answered, or until
//! its next pieces show that its handler keeps none. So an upload costs next to nothing, and one that is written to disk
//! holds nothing.
//!
//! # What happens
//!
//! While less than three quarters of the budget are held, nothing: nobody waits, and nobody is refused. From there on:
//!
//! - **Uploads wait for each other.** A body gives nothing, so its socket is not read and its window in HTTP/2 stays as it
//!   is: the client sends more slowly. The ones go on whose rest has room, with the least rest first; it is kept for
//!   them, so that each of them comes to its end. Requests of up to 16 KiB wait for nobody, and uploads that are consumed
//!   as they come go on as long as there is room for a piece. So it goes on until three quarters are free again, or none
//!   waits.
//! - **Answers wait for their clients.** A body of an answer is asked for its next piece when less than 16 KiB of it are
//!   unsent, and from half of the budget on that holds also where uploads need nothing. One piece each may have: ten thousand
//!   clients that read nothing are ten thousand pieces.
//! - **If nobody could go on, the largest is ended**: of the key that holds most (its connection over HTTP/2, else the
//!   request, or a [`MemoryKey`]) the largest, and so on, until there is room for another. Its handler is dropped, after
//!   its body has told it by the error [`MemoryExhausted`], and it is answered with 503, or `RESOURCE_EXHAUSTED` in gRPC.
//!   None is ended that is whole, and none whose handler still works on others' behalf: those are waited for.
//!
//! In the preset clients that do not read their answers have less and less time when the process comes near its limit of
//! memory, as with [any pressure](crate::connection#how-long-the-slow-may-take); the budget alone cuts none.
//!
//! # What it does not see
//!
//! - **What a handler makes of what it reads.** Who copies pieces into a buffer of its own as they come, as tonic does with
//!   messages (4 MiB each at most, by default), `read_to_end`, or a multipart parser, seems to consume them. The preset
//!   watches the memory of the process: where little is left it has uploads that hold something go one by one, and nobody
//!   is ended for it. [`MemoryBudget::hold`] counts it.
//! - **What is allocated before there is a body**, such as an answer of 50 MB in one piece: it counts once it is there.
//! - **What the system holds for sockets**, and windows of HTTP/2 that clients may use at any time (1 MiB for each
//!   connection by default). Control groups of version 2 count the sockets, and so does the watch of the preset.
//! - **The copy**: who collects a body has all its pieces and the whole at once for a moment, so a budget has to be less
//!   than half of what there is.
//!
//! # Cost
//!
//! A request without a body, or with one of up to 16 KiB, pays a few comparisons, and one allocation where its length is not
//! known before; a longer body an allocation, an entry in a map, and a lock that is free for each piece. Where it is off,
//! nothing is counted.

mod account;
mod answer;
mod body;
mod budget;
mod config;
mod counts;
mod future;
mod layer;
mod policy;
mod service;
mod upload;

use std::fmt;

#[cfg(feature = "preset")]
pub(crate) use self::{answer::Unsent, policy::Owner, upload::Upload};
pub use self::{
    body::{MemoryBody, MemoryRequestBody},
    budget::{BuildError, Held, MemoryBudget, MemoryBudgetBuilder},
    config::{Budget, MemoryConfig},
    counts::MemoryStats,
    future::MemoryBudgetFuture,
    layer::MemoryBudgetLayer,
    service::MemoryBudgetService,
};
pub use crate::config_error::ConfigError;

/// In the extensions of a request: whose it is, such as a number for each connection, peer or tenant. Of the key that holds
/// most the largest request is ended first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoryKey(pub u64);

/// Reading the body of a request fails with this when the request is ended to make room for others.
#[derive(Debug)]
pub struct MemoryExhausted(());

impl fmt::Display for MemoryExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the memory budget is exhausted")
    }
}

impl std::error::Error for MemoryExhausted {}
