//! For services that wrap futures and bodies anyway: what [`MetricsLayer`](crate::MetricsLayer) does for a request, without
//! a future and a body of its own.

#[cfg(feature = "tracing")]
pub use crate::trace::{Asked, BeginSpan, Known, RequestSpan, Spans, Spent};
pub use crate::{
    layer::{Entered, is_labelled},
    requests::{Ended, Outcome, Recording, Ticks, Told, thread_number},
    sink::{HistogramValue, Labels, Sink},
};
