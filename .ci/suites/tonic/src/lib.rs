//! tonic, with its `Server` over `stellane_core::serve`, as far as tonic's own tests use it.

mod over_serve;

pub use ::tonic::*;

pub mod transport {
    pub use crate::over_serve::Server;
    pub use ::tonic::transport::*;
    pub use stellane_core::RuntimeError;

    pub mod server {
        pub use crate::over_serve::TcpIncoming;
        pub use ::tonic::transport::server::*;
    }
}
