//! Guide: the ways in which Stellane is used, what it does to a request, and what one would ask.
//!
//! | I want to | page |
//! |---|---|
//! | move an axum, tonic or hyper service in, or out again | [`runtime`](crate::runtime#moving-in) |
//! | use the preset, or one part in an existing stack | [`compose`] |
//! | know what becomes of a request | [`request`] |
//! | know what happens when there is too much to do | [`overload`] |
//! | set something | [`configuration`] |
//! | deploy it: Kubernetes, systemd, behind a proxy | [`deploying`] |
//! | run more than one of it: balancers, shared rates, autoscaling, calls to others | [`fleet`] |
//! | run it elsewhere than on Linux | [`platforms`] |
//! | know why a request was slow, who refused it, what to look at | [`watching`] |
//! | know what a metric means | [`metrics`] |
//! | test my service | [`testing`] |
//! | write a layer | [`layers`] |
//! | know what a hostile client can do | [`threat_model`] |
//! | be convinced | [`faq`] |
//! | know a word | the [table](crate#words) of the crate |

#[doc = include_str!("compose.md")]
pub mod compose {}
#[doc = include_str!("configuration.md")]
pub mod configuration {}
#[doc = include_str!("deploying.md")]
pub mod deploying {}
#[doc = include_str!("faq.md")]
pub mod faq {}
#[doc = include_str!("fleet.md")]
pub mod fleet {}
#[doc = include_str!("layers.md")]
pub mod layers {}
#[doc = include_str!("metrics.md")]
pub mod metrics {}
#[doc = include_str!("overload.md")]
pub mod overload {}
#[doc = include_str!("platforms.md")]
pub mod platforms {}
#[doc = include_str!("request.md")]
pub mod request {}
#[doc = include_str!("testing.md")]
pub mod testing {}
#[doc = include_str!("threat_model.md")]
pub mod threat_model {}
#[doc = include_str!("watching.md")]
pub mod watching {}
