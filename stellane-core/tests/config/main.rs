//! Configuration: files, the environment, the reference, reloads.
#![cfg(feature = "config")]

#[cfg(feature = "reload")]
#[path = "../support/looks.rs"]
mod looks;

mod every_key;
mod loader;
mod reference;
mod reload;
