//! Each component alone in servers of others, and tower-http's layers around and within ours.
#![cfg(feature = "full")]

#[path = "../support/tower_http_rows.rs"]
mod rows;

mod axum_serve;
mod plain_hyper;
mod tower_http_around;
mod tower_http_within;
