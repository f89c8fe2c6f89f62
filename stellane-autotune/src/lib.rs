//! Adaptive concurrency limits and a tuner with guard rails for tower services.
