//! Guide: the ways in which Stellane is used, each with a program that compiles.

#[doc = include_str!("compose.md")]
pub mod compose {}
