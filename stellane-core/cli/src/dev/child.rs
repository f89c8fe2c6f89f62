use std::{
    io,
    net::TcpListener,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use super::{TICK, build::Program, say};

/// How long a service may take to end itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running service and the socket that outlives it.
#[derive(Debug)]
pub(super) struct Service {
    listener: TcpListener,
    variables: Vec<(&'static str, &'static str)>,
    child: Option<Child>,
}

impl Service {
    pub(super) fn new(listener: TcpListener, variables: Vec<(&'static str, &'static str)>) -> Self {
        Self {
            listener,
            variables,
            child: None,
        }
    }

    pub(super) fn start(&mut self, program: &Program) -> io::Result<()> {
        let mut command = command(&self.listener, program)?;
        if let Some(folder) = &program.manifest_dir {
            command.env("CARGO_MANIFEST_DIR", folder);
        }
        self.child = Some(command.envs(self.variables.iter().copied()).spawn()?);
        Ok(())
    }

    /// How the service ended, if it did so by itself; told once.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        Some(status)
    }

    /// Asks the service to drain and waits until it is gone.
    pub(super) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        terminate(&mut child);
        let asked = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if asked.elapsed() > PATIENCE {
                say(format_args!(
                    "the service did not end within {} s: killed",
                    PATIENCE.as_secs()
                ));
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            thread::sleep(TICK / 10);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The socket comes as standard input and the shell makes it the third descriptor, where systemd's
/// protocol wants it; `exec` keeps the process id, which `LISTEN_PID` must be.
#[cfg(unix)]
fn command(listener: &TcpListener, program: &Program) -> io::Result<Command> {
    use std::os::fd::OwnedFd;
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec "$@""#)
        .arg("sh")
        .arg(&program.path)
        .args(&program.arguments)
        .stdin(OwnedFd::from(listener.try_clone()?));
    Ok(command)
}

#[cfg(not(unix))]
fn command(_: &TcpListener, _: &Program) -> io::Result<Command> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "`stellane dev` needs a Unix system",
    ))
}

#[cfg(unix)]
fn terminate(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) {
    let _ = child.kill();
}
