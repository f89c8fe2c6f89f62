//! Guide: the ways in which Stellane is used, what it does to a request, and what one would ask.

#[doc = include_str!("compose.md")]
pub mod compose {}
#[doc = include_str!("faq.md")]
pub mod faq {}
#[doc = include_str!("request.md")]
pub mod request {}
#[doc = include_str!("testing.md")]
pub mod testing {}
#[doc = include_str!("threat_model.md")]
pub mod threat_model {}
