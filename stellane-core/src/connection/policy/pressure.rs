//! How scarce things are, and how long the slow may take because of it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::connection::{config::ConnectionConfig, table::clock::millis};

/// From this share of the places on there is pressure, which is full with the last one.
const AT_EASE: f64 = 0.5;

/// How scarce places, and what the process has measured itself, are: 0 while there is room, 1 when nothing is left.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    /// Connections that gave their place at once, if somebody needed it.
    idle: AtomicUsize,
    /// Of memory and open files, by whoever measures them: the bits of an `f64`.
    told: AtomicU64,
    /// The bits of an `f64`.
    level: AtomicU64,
    /// What may lie unread in buffers is to be as little as possible.
    buffers_little: AtomicBool,
}

impl Pressure {
    /// So many connections are idle now.
    pub(crate) fn set_idle(&self, idle: usize) {
        self.idle.store(idle, Relaxed);
    }

    /// What others have measured, until they measure again.
    pub(crate) fn tell(&self, level: f64) {
        // What is no number is none.
        let level = if level > 0.0 { level.min(1.0) } else { 0.0 };
        self.told.store(level.to_bits(), Relaxed);
    }

    /// Looks again, with so many connections of `most`.
    pub(crate) fn measure(&self, open: usize, most: usize) -> f64 {
        let held = open.saturating_sub(self.idle.load(Relaxed));
        let told = f64::from_bits(self.told.load(Relaxed));
        let level = of_places(held, most).max(told);
        self.level.store(level.to_bits(), Relaxed);
        level
    }

    pub(crate) fn set_buffers_little(&self, little: bool) {
        self.buffers_little.store(little, Relaxed);
    }

    pub(crate) fn buffers_little(&self) -> bool {
        self.buffers_little.load(Relaxed)
    }

    /// As of the latest look.
    pub(crate) fn level(&self) -> f64 {
        f64::from_bits(self.level.load(Relaxed))
    }
}

fn of_places(held: usize, most: usize) -> f64 {
    let share = held as f64 / most.max(1) as f64;
    ((share - AT_EASE) / (1.0 - AT_EASE)).clamp(0.0, 1.0)
}

/// How long slow clients may take at a level of pressure, in milliseconds; `u64::MAX` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    pub(crate) first_byte: u64,
    pub(crate) head: u64,
    pub(crate) write: u64,
    /// How far they may fall behind the least rates.
    pub(crate) rate_grace: u64,
}

impl Patience {
    pub(crate) fn at(level: f64, config: &ConnectionConfig) -> Self {
        let least = millis(config.min_timeout);
        let shrunk = |timeout| shrink(millis(timeout), least, level);
        Self {
            first_byte: shrunk(config.first_byte_timeout),
            head: shrunk(config.head_timeout),
            write: shrunk(config.write_timeout),
            rate_grace: shrunk(config.rate_grace),
        }
    }
}

/// All of a timeout while there is room, `least` of it when nothing is left. In between it is divided by the same for
/// each step, since it falls from minutes to a second: so the level at which enough clients go is always found.
fn shrink(timeout: u64, least: u64, level: f64) -> u64 {
    match timeout {
        0 => u64::MAX,
        _ if least == 0 || least >= timeout => timeout,
        _ => (timeout as f64 * (least as f64 / timeout as f64).powf(level)).round() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_when_half_of_the_places_are_held_and_idle_ones_hold_none() {
        for (open, idle, most, told, expected) in [
            (0, 0, 10_000, 0.0, 0.0),
            (5000, 0, 10_000, 0.0, 0.0),
            (7500, 0, 10_000, 0.0, 0.5),
            (10_000, 0, 10_000, 0.0, 1.0),
            // The table is full of browsers that read a page: none has to go, and nobody is in need.
            (10_000, 9000, 10_000, 0.0, 0.0),
            // A limit that was lowered while serving.
            (300, 0, 100, 0.0, 1.0),
            (1, 0, 0, 0.0, 1.0),
            (0, 0, 10_000, 0.25, 0.25),
            (7500, 0, 10_000, 0.25, 0.5),
            (0, 0, 10_000, 7.0, 1.0),
            (0, 0, 10_000, -1.0, 0.0),
            (0, 0, 10_000, f64::NAN, 0.0),
        ] {
            let pressure = Pressure::default();
            pressure.set_idle(idle);
            pressure.tell(told);
            let got = pressure.measure(open, most);
            assert_eq!(got, expected, "{open} open, {idle} idle, of {most}, {told}");
            assert_eq!(pressure.level(), got);
        }
    }

    #[test]
    fn patience_is_as_configured_at_rest_and_little_when_nothing_is_left() {
        for (timeout, least, level, expected) in [
            (600_000, 1000, 0.0, 600_000),
            (600_000, 1000, 0.5, 24_495),
            (600_000, 1000, 0.9, 1896),
            (600_000, 1000, 1.0, 1000),
            // Off stays off, and what is short stays as it is.
            (0, 1000, 1.0, u64::MAX),
            (800, 1000, 1.0, 800),
            // Without a least, none shrinks.
            (600_000, 0, 1.0, 600_000),
        ] {
            let got = shrink(timeout, least, level);
            assert_eq!(got, expected, "{timeout} and {least} at {level}");
        }
    }
}
