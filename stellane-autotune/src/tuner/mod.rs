//! A tuner that changes one thing at a time, says why, and undoes what did not help.

mod act;
mod action;
mod builder;
mod config;
mod controller;
pub mod controllers;
mod core;
mod defaults;
mod handle;
mod knob;
mod propose;
mod rule;
mod signal;
mod state;
mod stats;
mod subscription;
mod trial;

pub use core::Snapshot;

pub use action::{ActionOutcome, Evidence, TuningAction};
pub use builder::AutoTunerBuilder;
pub use config::{TunerConfig, TunerMode};
pub use controller::{Controller, View, Wish};
pub use defaults::names;
pub use handle::AutoTuner;
pub use knob::{Knob, SetResult};
pub use rule::{Condition, Objective, Rule};
pub use signal::{Signal, SignalHealth};
pub use state::Memory;
pub use stats::{KnobStats, SignalStats, TunerStats};
pub use subscription::Subscription;
