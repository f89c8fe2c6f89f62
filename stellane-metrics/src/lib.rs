//! Request metrics, runtime metrics and an admin service for tower.
