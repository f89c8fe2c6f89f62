//! Patterns, and the compiled tree that finds them: no request, no handler, no tower in here.

pub(crate) mod constraint;
pub(crate) mod exact;
pub(crate) mod pattern;
pub(crate) mod tree;
