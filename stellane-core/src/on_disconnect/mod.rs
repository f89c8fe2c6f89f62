//! What becomes of a handler whose client has left: [`OnDisconnectLayer`].
//!
//! Servers on tower drop the handler's future at the await where it stands: nobody waits for the answer. That is right for
//! what only reads, and wrong for what writes twice. With this layer on a route its handler goes on to its end, or is told:
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, routing::post};
//! use stellane_core::on_disconnect::OnDisconnectLayer;
//!
//! let app: Router = Router::new()
//!     .route("/orders", post(async || "placed: two writes"))
//!     .route_layer(OnDisconnectLayer::finish(Duration::from_secs(30)));
//! # let _ = app;
//! ```
//!
//! | | without its client | for |
//! |---|---|---|
//! | [`OnDisconnect::Cancel`], the default of all methods, as in hyper, axum and tonic | dropped at once | what only reads |
//! | [`OnDisconnect::Finish`] | goes on to its end | what must not be left half-done |
//! | [`OnDisconnect::Tell`] | goes on, and may ask [`ClientLeft`] | what can stop in an orderly way by itself |
//!
//! Whether a handler is safe to be dropped at each await, a test with [`CancelPoints`](crate::cancel_points) tells.
//!
//! # Who has left
//!
//! A client that resets its stream (`RST_STREAM`) or its connection, or whose connection is lost, has left at once. One that
//! closes its side of an HTTP/1 connection may still read: under the connection manager it has left when
//! [`half_close_grace`](crate::connection::ConnectionConfig::half_close_grace) is over, under hyper at once. `within` counts
//! from there. A server sees none of this while it leaves a body unread: a handler that has to know reads it, or else goes on
//! as if the client were there. A body that ends too early is an error for whoever reads it; after that, too, the handler
//! goes on as if the client were there.
//!
//! # What goes on
//!
//! The handler, from the await where it stood, in a task of its own; no task is spawned while the client is there. What is
//! left of the request's body is lost, and reading it is an error. Of the answer nobody hears: what of its body is there at
//! once is taken, a stream is dropped. Who panics is not polled again, and who had not begun does not begin.
//!
//! - **Behind our connection manager**, and so in the preset, with the layer on a route or anywhere within the service, or by
//!   `server.route_limits` of the configuration, the whole request goes on: it keeps its place under the limit, its deadline,
//!   its span and its metrics until its real end. A drain waits for it as for a request. At most
//!   [`max_abandoned`](crate::connection::ConnectionConfig::max_abandoned) do at a time: beyond that they are cancelled. It
//!   costs nothing where no layer says so, and nothing but the layer where one does.
//! - **In any other stack**, put it outside of what belongs to the request: the permit of a limit that stands outside of it is
//!   given back with the client, while the work goes on. It costs an allocation for each request, [`Abandoned`] counts, and
//!   has to be [drained](Abandoned::drain) before the runtime ends.
//!
//! On a thread without a runtime of tokio, such as one of the worker pool, it is dropped; put the layer outside of that.

mod abandoned;
mod future;
mod host;
mod layer;

pub use abandoned::{Abandoned, AbandonedStats};
pub use future::OnDisconnectFuture;
#[cfg(feature = "preset")]
pub(crate) use host::Asking;
#[cfg(feature = "connection")]
pub(crate) use host::Hosted;
pub use layer::{OnDisconnectLayer, OnDisconnectService};

use std::time::Duration;

use http::Extensions;
use tokio_util::sync::CancellationToken;

/// What becomes of a handler whose client has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// It is dropped.
    #[default]
    Cancel,
    /// It goes on.
    Finish {
        /// For so long at most. Too short leaves work half-done, too long keeps a place for nobody.
        within: Duration,
    },
    /// It goes on, and [`ClientLeft`] in the extensions of its request says when.
    Tell {
        /// For so long at most.
        within: Duration,
    },
}

/// In the extensions of a request under [`OnDisconnect::Tell`]: whether its client has left.
///
/// ```
/// use axum::Extension;
/// use stellane_core::on_disconnect::ClientLeft;
///
/// async fn import(Extension(client): Extension<ClientLeft>) -> &'static str {
///     for batch in 0..10 {
///         if client.has_left() {
///             return "stopped between two batches";
///         }
///         write(batch).await;
///     }
///     "done"
/// }
/// # async fn write(_: u32) {}
/// ```
#[derive(Debug, Clone)]
pub struct ClientLeft(CancellationToken);

impl ClientLeft {
    /// Whether it has.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when it has. Safe to be dropped.
    pub async fn left(&self) {
        self.0.cancelled().await;
    }
}

/// What is to become of a request under way when its client leaves.
#[derive(Debug)]
pub(crate) struct After {
    within: Duration,
    client: Option<ClientLeft>,
}

impl OnDisconnect {
    /// Says it in the request, where it is to be said.
    pub(crate) fn begin(self, extensions: &mut Extensions) -> Option<After> {
        match self {
            Self::Cancel => None,
            Self::Finish { within } => Some(After {
                within,
                client: None,
            }),
            Self::Tell { within } => {
                let client = ClientLeft(CancellationToken::new());
                extensions.insert(client.clone());
                Some(After {
                    within,
                    client: Some(client),
                })
            }
        }
    }
}
