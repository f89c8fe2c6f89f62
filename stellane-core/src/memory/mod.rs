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
//! | the whole of a body whose length is known and up to a 64th of the budget, while three quarters are free | its request begins | it is answered |
//! | the body of another request, where it is longer than 16 KiB | it is read | its `Bytes` are dropped |
//! | the same of a body that its handler still holds when it is whole, as extractors do, which copy it | it is whole | the request is answered |
//! | a piece of an answer from 4 KiB on; one beyond 128 KiB if nobody else holds it as well | the service has made it | it was sent |
//! | buffers on loan of the preset's pools, of up to 1 MiB each | they are taken, as is seen twice a second | they are frozen, or given back |
//! | what a handler says that it holds | [`MemoryBudget::hold`] | that is dropped |
//!
//! While three quarters of the budget are free a body's pieces are not followed: they count until it is answered, or until
//! its next pieces show that its handler keeps none. So an upload costs next to nothing, and one that is written to disk
//! holds nothing. Of a small part of the budget the whole is set aside at once, and nothing is counted as it comes: such a
//! request waits for nobody and is never ended. An eighth of the budget can be set aside so, and not more, since clients may
//! never send what they said that they would.
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
//! - **Nobody is waited for that does not come to an end**: a client that sends nothing for two seconds, or would need
//!   more than a minute for its rest, keeps no room. It may go on when there is some.
//! - **If nobody could go on, the largest is ended**: of who holds most the largest, and so on, until there is room for
//!   another. Its handler is dropped, after its body has told it by the error [`MemoryExhausted`], and it is answered with
//!   503, or `RESOURCE_EXHAUSTED` in gRPC; so is a single one that is larger than all there is. None is ended that is
//!   whole, and none whose handler still works on others' behalf: those are waited for.
//! - **None is ended while others may make room**: where an upload could go on with what is set aside, what clients have
//!   not read of their answers and what handlers [hold](MemoryBudget::hold), it waits for that. After ten seconds of that
//!   one is ended all the same, since it may be that nothing of it ever comes back.
//! - **Little lies in buffers.** In the preset new connections of HTTP/2 get windows of 64 KiB, as long as they live, and of
//!   an answer that its client does not read Linux takes 64 KiB ahead, and not megabytes:
//!   [`set_buffers_little`](crate::connection::ConnectionManager::set_buffers_little).
//!
//! # Who holds most
//!
//! In the preset all requests from one address are one client's, and of IPv6 from one /64, whatever the number of its
//! connections: that of the connection, or of the PROXY header of a proxy that is trusted. With `connection.connect_info` it
//! is the one that trusted proxies name in the head (`connection.forwarded`). Behind addresses of private networks and of
//! carriers there may be many: a gateway, a sidecar, a node of a cluster. There it is the connection over HTTP/2, else the
//! request. So behind a gateway with a public address that nobody has named as trusted all are one client, of which the
//! largest is ended first: name it, or put a [`MemoryKey`] into the extensions of the requests, as a closure of
//! [`RuntimeBuilder::connect_info`](crate::runtime::RuntimeBuilder::connect_info) can. With the layer alone each request that has none
//! is on its own.
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
//! - **What the system holds for sockets.** Control groups of version 2 count them, so the watch of the preset does, and
//!   [`sockets_bytes`](MemoryStats::sockets_bytes) tells; elsewhere nobody knows whose they are. An upload that waits has as
//!   much there as its client had room for when it began to wait.
//! - **What came of HTTP/2 and was not read**: an upload that waits gives its window back to nobody, so it is that window at
//!   most, and of a connection 1 MiB by default; a connection that began while memory was scarce has 64 KiB.
//! - **Buffers beyond 1 MiB** of `stellane_pool`, which are no buffers of the pool: hold what is large.
//! - **What a body that was set aside still brings once its request is answered**, where a task reads on that the handler
//!   has left behind: it is a 64th of the budget at most.
//! - **The copy**: who collects a body has all its pieces and the whole at once for a moment, so a budget has to be less
//!   than half of what there is.
//!
//! # Cost
//!
//! A request without a body, or with one of up to 16 KiB, pays a few comparisons: some 30 instructions of a request through the
//! preset. What is set aside as a whole costs two additions, and nothing for its pieces: with all around it 275 instructions,
//! 0.8 % of an upload of 100 KB that is read and thrown away. Any other longer body, and one whose length is not known, costs
//! some 2000: an allocation and an entry in a list, and for each piece two additions, or a lock that is free once a quarter is
//! held. (`stellane-core/benches/memory_budget_instructions` counts them.) Where it is off, nothing is counted. A change of
//! `memory.budget` needs a restart.

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

/// In the extensions of a request: whose it is, such as a number for each tenant. Of the key that holds most the largest
/// request is ended first. Without it the preset goes by the client's address, see the [module](self#who-holds-most).
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
