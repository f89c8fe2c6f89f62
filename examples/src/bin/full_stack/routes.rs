//! The routes: one for each thing that a service does.
