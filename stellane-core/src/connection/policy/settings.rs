//! The settings that can be changed while serving.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::connection::{config::ConnectionConfig, table::clock::millis};

/// Declares each setting once: what it is in the config, what it is kept as, and how one becomes the other.
macro_rules! live_settings {
    ($($name:ident, $set:ident: $config:ty = $kept:ty, $atomic:ty, $keep:expr, $tell:expr;)+) => {
        /// Settings that begin as those of the config; times are in milliseconds.
        #[derive(Debug)]
        pub(crate) struct LiveSettings {
            $($name: $atomic,)+
        }

        impl LiveSettings {
            pub(crate) fn new(config: &ConnectionConfig) -> Self {
                Self {
                    $($name: <$atomic>::new($keep(config.$name)),)+
                }
            }

            /// The config with these.
            pub(crate) fn tell(&self, config: ConnectionConfig) -> ConnectionConfig {
                ConnectionConfig {
                    $($name: $tell(self.$name()),)+
                    ..config
                }
            }

            $(
                pub(crate) fn $name(&self) -> $kept {
                    self.$name.load(Relaxed)
                }

                pub(crate) fn $set(&self, value: $config) {
                    self.$name.store($keep(value), Relaxed);
                }
            )+
        }
    };
}

live_settings! {
    max_connections, set_max_connections: usize = usize, AtomicUsize, usize::from, usize::from;
    max_connections_per_peer, set_max_connections_per_peer: usize = usize, AtomicUsize, usize::from, usize::from;
    max_idle_connections, set_max_idle_connections: usize = usize, AtomicUsize, usize::from, usize::from;
    max_accepts_per_second, set_max_accepts_per_second: u32 = u32, AtomicU32, u32::from, u32::from;
    idle_timeout, set_idle_timeout: Duration = u64, AtomicU64, millis, Duration::from_millis;
    park_after, set_park_after: Duration = u64, AtomicU64, millis, Duration::from_millis;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_what_is_told() {
        let mut config = ConnectionConfig::default();
        let settings = LiveSettings::new(&config);
        assert_eq!(settings.tell(ConnectionConfig::default()), config);
        config.max_connections = 7;
        config.park_after = Duration::from_millis(1500);
        settings.set_max_connections(7);
        settings.set_park_after(config.park_after);
        assert_eq!(settings.tell(ConnectionConfig::default()), config);
        assert_eq!(settings.park_after(), 1500);
    }
}
