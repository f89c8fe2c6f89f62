use serde::{Deserialize, Serialize};

/// What helps while developing (section `[dev]`). All of it is off unless it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DevConfig {
    /// Reload open pages when the service restarts, and take over the listening socket that
    /// `stellane dev` keeps open. Also set by `STELLANE_HOT_RELOAD`. Default `false`; `true` in the
    /// profile `development`.
    pub hot_reload: bool,
    /// Offer CPU profiles on the admin address. Also set by `STELLANE_PROFILE_CPU`. Default `false`.
    pub profile_cpu: bool,
    /// Offer heap profiles on the admin address, where the program installed a source for them. Also
    /// set by `STELLANE_PROFILE_MEM`. Default `false`.
    pub profile_mem: bool,
    /// Record which routes hold a worker too long in one poll. Also set by `STELLANE_PROFILE_BLOCK`.
    /// Default `false`.
    pub profile_block: bool,
}
