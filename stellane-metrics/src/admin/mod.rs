//! [`Admin`]: probes, metrics, JSON and a live page, as one tower service.

mod access;
mod body;
mod builder;
mod service;

pub use body::AdminBody;
pub use builder::{Admin, AdminBuilder};
pub use service::AdminService;
