//! The suite that every [`Engine`] passes, over real sockets (feature `engine-testing`).
//!
//! A crate with an engine of its own runs it in one test:
//!
//! ```
//! # use stellane_core::{connection::ConnectionManager, engine::SharedEngine};
//! use stellane_core::engine::testing;
//!
//! # fn my_engine() -> SharedEngine {
//! #     SharedEngine::new(&ConnectionManager::builder().build().expect("the defaults are valid"))
//! # }
//! # tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
//! let passed = testing::check_engine(my_engine).await?;
//! assert!(passed.len() > 5);
//! # Ok::<_, testing::Failure>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod checks;
mod client;

use std::{fmt, future::Future, pin::Pin, time::Duration};

pub use self::client::{Answer, Client};
use super::Engine;
use crate::BoxError;

/// How long one check may take before it has failed: far longer than any needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an engine did wrong.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The check, as a sentence about the engine.
    pub check: &'static str,
    /// What happened instead.
    pub what: BoxError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine: not so that \"{}\": {}", self.check, self.what)
    }
}

impl std::error::Error for Failure {}

type Outcome = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Runs every check, each on an engine made anew; the names of those passed. Needs a tokio runtime with more
/// than one thread.
///
/// # Errors
/// The first check that fails.
pub async fn check_engine<E: Engine>(
    make: impl Fn() -> E + Send,
) -> Result<Vec<&'static str>, Failure> {
    let mut passed = Vec::new();
    for (check, run) in checks::all::<E>() {
        let outcome = tokio::time::timeout(PATIENCE, tokio::spawn(run(make()))).await;
        let what: BoxError = match outcome {
            Ok(Ok(Ok(()))) => {
                passed.push(check);
                continue;
            }
            Ok(Ok(Err(what))) => what,
            Ok(Err(panicked)) => panicked.into(),
            Err(_) => format!("not done after {PATIENCE:?}").into(),
        };
        return Err(Failure { check, what });
    }
    Ok(passed)
}
