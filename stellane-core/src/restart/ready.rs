//! The side of the new process.

use std::{
    env, io,
    io::Write,
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
};

use super::process::READY_PATH;

/// Tells whoever waits that this process can answer: the process that it takes over from, and systemd
/// (`NOTIFY_SOCKET`). Does nothing where nobody waits.
///
/// # Errors
/// One that waits could not be told.
pub fn ready() -> io::Result<()> {
    if let Some(path) = env::var_os(READY_PATH) {
        // Who waited may have given up.
        let told = UnixStream::connect(path).and_then(|mut old| {
            let me = std::process::id().to_string();
            old.write_all(me.as_bytes())
        });
        match told {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    notify(&format!("READY=1\nMAINPID={}", std::process::id()))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::BrokenPipe
    )
}

fn notify(state: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = path.to_str().and_then(|path| path.strip_prefix('@')) {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return socket.send_to_addr(state.as_bytes(), &address).map(drop);
    }
    socket.send_to(state.as_bytes(), Path::new(&path)).map(drop)
}

/// The names of the sockets that were handed over (`LISTEN_FDNAMES`), in their order.
#[must_use]
pub fn names() -> Vec<String> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned);
    names.filter(|name| !name.is_empty()).collect()
}
