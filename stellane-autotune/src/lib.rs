//! Adaptive concurrency limits and a tuner with guard rails for tower services.
mod clock;
mod error;
mod limit;
pub mod overload;
#[cfg(feature = "sim")]
pub mod sim;
mod tuner;

pub use clock::{Clock, ManualClock};
pub use error::{BuildError, ConfigError};
pub use limit::*;
pub use overload::{OverloadConfig, OverloadLayer};
pub use tuner::*;
