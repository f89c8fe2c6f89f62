//! Object, buffer and worker pools for tower services.
