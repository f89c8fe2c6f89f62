//! Guide: the ways in which Stellane is used, each with a program that compiles.

#[doc = include_str!("compose.md")]
pub mod compose {}
#[doc = include_str!("threat_model.md")]
pub mod threat_model {}
