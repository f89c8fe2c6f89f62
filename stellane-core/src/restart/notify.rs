//! What systemd hears, by the socket in `NOTIFY_SOCKET`.

use std::{
    env, io,
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    time::Duration,
};

use sd_notify::NotifyState;

/// How long it may take: systemd reads at once, and nobody else is to hold this process.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells systemd, if it wants to hear. `sd_notify` knows no name that begins with `@` (an abstract socket), and waits for
/// as long as it takes.
pub(crate) fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => connect_to_abstract(&socket, name)?,
        None => socket.connect(&name)?,
    }
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send(lines.as_bytes()).map(drop)
}

#[cfg(target_os = "linux")]
fn connect_to_abstract(socket: &UnixDatagram, name: &[u8]) -> io::Result<()> {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
    socket.connect_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_to_abstract(_: &UnixDatagram, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
