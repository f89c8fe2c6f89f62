//! Configuration: files, the environment, the reference, reloads.
#![cfg(feature = "config")]

mod every_key;
mod loader;
mod reference;
mod reload;
