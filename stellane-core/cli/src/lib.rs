//! The load generator of `stellane bench`, which `examples/compare` measures servers with as well. It is the command's own: what is
//! public here may change with every version.

pub mod load;
