//! The command `stellane`, run as a user runs it.

mod bench;
mod broken;
mod config;
#[cfg(unix)]
mod dev;
mod load;
mod top;
