//! Who may come and who must go: functions of a record, the settings and a time. No I/O, no lock, no task.

pub(crate) mod accept_rate;
pub(crate) mod admission;
pub(crate) mod budgets;
pub(crate) mod deadlines;
pub(crate) mod drain;
pub(crate) mod forwarded;
pub(crate) mod min_rates;
pub(crate) mod park_delay;
pub(crate) mod pressure;
pub(crate) mod room;
pub(crate) mod settings;
pub(crate) mod silence;
pub(crate) mod spread;
#[cfg(feature = "http2")]
pub(crate) mod stream_rates;
