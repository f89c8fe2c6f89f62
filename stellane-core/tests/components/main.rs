//! Each component alone in servers of others, and tower-http's layers around and within ours.
#![cfg(feature = "full")]
// The rows of `support/components.rs` are compiled for each of two servers.
#![allow(clippy::duplicate_mod)]

#[path = "../support/ask.rs"]
mod ask;
#[path = "../support/log.rs"]
mod log;
#[path = "../support/looks.rs"]
mod looks;
#[path = "../support/tower_http_rows.rs"]
mod rows;

mod axum_serve;
mod plain_hyper;
mod tower_http_around;
mod tower_http_within;
