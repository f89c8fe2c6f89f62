//! A tuner that changes one thing at a time, says why, and undoes what did not help.

mod action;
mod config;
mod controller;
pub mod controllers;
mod core;
mod defaults;
mod handle;
mod knob;
mod rule;
mod signal;
mod subscription;

pub use action::{ActionOutcome, Evidence, TuningAction};
pub use config::{TunerConfig, TunerMode};
pub use controller::{Controller, Memory, View, Wish};
pub use core::Snapshot;
pub use defaults::names;
pub use handle::{AutoTuner, AutoTunerBuilder, KnobStats, SignalStats, TunerStats};
pub use knob::{Knob, SetResult};
pub use rule::{Condition, Objective, Rule};
pub use signal::{Signal, SignalHealth};
pub use subscription::Subscription;
