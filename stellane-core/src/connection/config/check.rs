//! Checks that several sections share.

use std::time::Duration;

use crate::config_error::ConfigError;

/// The longest time that makes sense in a configuration.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Notes a time that is longer than a day.
pub(crate) fn check_up_to_a_day(errors: &mut Vec<ConfigError>, key: &'static str, value: Duration) {
    if value > DAY {
        errors.push(ConfigError {
            key,
            value: format!("{value:?}"),
            expected: "0s to 1 day".to_owned(),
        });
    }
}
