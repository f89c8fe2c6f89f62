//! The side of the new process.

use std::{env, fs::File, io, io::Write, path::PathBuf};

use super::{notify::notify, process::READY_PATH};

/// Tells whoever waits that this process can answer: the process that it takes over from, and systemd
/// (`NOTIFY_SOCKET`). Does nothing where nobody waits.
///
/// # Errors
/// One that waits could not be told.
pub fn ready() -> io::Result<()> {
    if let Some(path) = predecessor() {
        let told = File::options().write(true).open(path).and_then(|mut old| {
            let me = std::process::id();
            writeln!(old, "{me}")
        });
        match told {
            // Who waited may have given up.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::MainPid(std::process::id()),
    ])?;
    Ok(())
}

/// Where the process that this one takes over from waits for it, if there is one.
fn predecessor() -> Option<PathBuf> {
    env::var_os(READY_PATH).map(PathBuf::from)
}

/// Whether the sockets that were handed over are those of a process of the same program.
#[cfg(feature = "preset")]
pub(crate) fn is_successor() -> bool {
    predecessor().is_some()
}

/// The names of the sockets that were handed over (`LISTEN_FDNAMES`), in their order.
#[must_use]
pub fn names() -> Vec<String> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned);
    names.filter(|name| !name.is_empty()).collect()
}
