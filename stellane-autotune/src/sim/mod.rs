//! A deterministic simulator of a service under load, with an oracle to compare with.
//!
//! It drives the very [`AdaptiveLimit`](crate::AdaptiveLimit) that production uses, on an injected clock: one thread,
//! no sleeping, the same seed gives the same run. Bring an [`Algorithm`](crate::Algorithm) of your own and see
//! where it fails:
//!
//! ```
//! use stellane_autotune::sim::{self, Contender};
//! use stellane_autotune::AlgorithmKind;
//!
//! let scenario = sim::scenarios().into_iter().find(|s| s.name == "overload_2x").unwrap();
//! let scenario = scenario.shortened(8.0);
//! let run = sim::run(&scenario, &Contender::Kind(AlgorithmKind::Fixed, 24), 1);
//! assert!(run.goodput(4.0, 8.0) > 1000.0);
//! ```

mod contender;
mod engine;
mod fleet;
mod honest;
mod job;
mod report;
mod run;
mod scenario;
mod service;
mod sharing;
mod waiting;

pub use contender::Contender;
pub use engine::{run, run_fleet, run_in_series, run_shared};
pub use fleet::Member;
pub use honest::{ColdStart, Honest, Load, Shape, honest_services, hostile};
pub use report::{Cell, Row, Table, oracle, score};
pub use run::{Run, Sample};
pub use scenario::{Clients, Closed, Discipline, Others, Plant, Scenario, Work, scenarios};
