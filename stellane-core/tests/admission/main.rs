//! Who is refused, over real sockets.
#![cfg(feature = "full")]

#[path = "../support/admission_rows.rs"]
mod admission_rows;

mod axum_serve;
mod sockets;
