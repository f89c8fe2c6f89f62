//! Checks that several sections share.

use std::time::Duration;

use crate::config_error::ConfigError;

/// Notes a time that is longer than a day.
pub(crate) fn check_up_to_a_day(errors: &mut Vec<ConfigError>, key: &'static str, value: Duration) {
    if value > Duration::from_secs(86_400) {
        errors.push(ConfigError {
            key,
            value: format!("{value:?}"),
            expected: "0s to 1 day".to_owned(),
        });
    }
}
