use std::time::Duration;

use super::ConfigError;

/// On what the preset runs the service (section `[engine]`).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct EngineConfig {
    /// `"shared"`: one runtime whose threads steal work from each other. `"per_core"`: a runtime for each
    /// core, each with a listening socket of its own; faster for short and even requests, but a slow request
    /// delays the others of its core. With it, `connection.listen.sockets` of 1 means one for each core.
    /// `"handoff"`: as `per_core`, and a core whose thread a handler blocks goes to another thread. Default `"shared"`.
    pub kind: EngineKind,
    /// How many cores a `per_core` or `handoff` engine uses; `0` is all that the process may use. Too few leave cores idle, too many
    /// take turns on the same ones. Default `0`.
    pub cores: usize,
    /// Whether the threads of a `per_core` engine are pinned, each to its CPU. Helps on a machine of its own,
    /// harms beside other busy processes. Linux only. Default `false`.
    pub pin: bool,
    /// How long a handler may hold its thread before a `handoff` engine gives the core to another one. Others of the core
    /// wait for so long when a handler blocks; with less, what only computes for a moment costs a change of threads.
    /// Default `"10ms"`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub hand_off_after: Duration,
    /// How many threads of a `handoff` engine handlers may hold by waiting, without a place under the limit of requests. When
    /// so many wait, requests of routes that are known to wait are refused with 503, and no others; one of a route without a
    /// name, which can't be known, keeps its place under the limit. As many threads more there are at most; the next one that
    /// is held holds up the others of its core until it goes on. Too few refuse requests that could be answered; each takes
    /// the memory of a thread, a megabyte or two. Default `256`.
    pub max_blocked: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kind: EngineKind::Shared,
            cores: 0,
            pin: false,
            hand_off_after: Duration::from_millis(10),
            max_blocked: 256,
        }
    }
}

/// Which [`Engine`](super::Engine) the preset uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum EngineKind {
    /// [`SharedEngine`](super::SharedEngine).
    #[default]
    Shared,
    /// [`PerCoreEngine`](super::PerCoreEngine).
    PerCore,
    /// [`HandoffEngine`](super::HandoffEngine).
    Handoff,
}

impl EngineConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Every value that is out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        ConfigError::check(&mut errors, "cores", self.cores, 0..=1024);
        let after = Duration::from_millis(1)..=Duration::from_secs(60);
        if !after.contains(&self.hand_off_after) {
            errors.push(ConfigError {
                key: "hand_off_after",
                value: format!("{:?}", self.hand_off_after),
                expected: "1ms to 60s".to_owned(),
            });
        }
        ConfigError::check(&mut errors, "max_blocked", self.max_blocked, 1..=10_000);
        ConfigError::all(errors)
    }
}
