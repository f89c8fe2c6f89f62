use super::ConfigError;

/// On what the preset runs the service (section `[engine]`).
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct EngineConfig {
    /// `"shared"`: one runtime whose threads steal work from each other. `"per_core"`: a runtime for each
    /// core, each with a listening socket of its own; faster for short and even requests, but a slow request
    /// delays the others of its core. With it, `connection.listen.sockets` of 1 means one for each core.
    /// Default `"shared"`.
    pub kind: EngineKind,
    /// How many cores a `per_core` engine uses; `0` is all that the process may use. Too few leave cores idle, too many
    /// take turns on the same ones. Default `0`.
    pub cores: usize,
    /// Whether the threads of a `per_core` engine are pinned, each to its CPU. Helps on a machine of its own,
    /// harms beside other busy processes. Linux only. Default `false`.
    pub pin: bool,
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
        ConfigError::all(errors)
    }
}
