//! The connection manager, over real sockets.
#![cfg(feature = "connection")]

#[cfg(feature = "http2")]
#[path = "../support/frames.rs"]
mod frames;
#[path = "../support/looks.rs"]
mod looks;
#[path = "../support/random.rs"]
mod random;
#[cfg(feature = "full")]
#[path = "../support/self_signed.rs"]
mod self_signed;
#[path = "../support/served.rs"]
mod served;
#[path = "../support/steps.rs"]
mod steps;
#[path = "../support/until.rs"]
mod until;

mod abandoned;
mod accept;
mod answers;
mod basics;
mod drain;
mod ends;
mod farewell;
mod http2;
mod http2_half_closed;
mod http2_rates;
mod http2_strict;
mod hysteresis;
mod keep_alive;
mod left_alone;
mod long_lived;
mod make;
mod parking;
mod patience;
mod pipelining;
mod rates;
mod rounds;
mod simple;
mod stats;
mod tls;
mod tls_ends;
mod waves;
mod websocket;
