//! HTTP/1: requests answered without hyper, and an eye on what hyper reads.

pub(crate) mod chunk_line;
pub(crate) mod fast_path;
pub(crate) mod guard;
pub(crate) mod lines;
pub(crate) mod refusal;
