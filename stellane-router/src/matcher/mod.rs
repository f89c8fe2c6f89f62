//! Patterns, and the compiled tree that finds them: no request, no handler, no tower in here.

pub(crate) mod constraint;
mod draft;
pub(crate) mod exact;
pub(crate) mod param;
pub(crate) mod pattern;
mod places;
pub(crate) mod rivals;
pub(crate) mod segment;
pub(crate) mod spans;
mod texts;
pub(crate) mod tree;
