//! The command `stellane`; see [`stellane_core::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    stellane_core::cli::main()
}
