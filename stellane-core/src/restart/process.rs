//! The side of the old process.

use std::{
    env,
    ffi::OsString,
    io::{self, PipeWriter},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, parent_id},
    },
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
};

use super::RestartError;

/// Where the new process says that it is ready: the path of a pipe that it has inherited. No name that anybody else
/// could know, and no folder that has to be writable.
pub(super) const READY_PATH: &str = "STELLANE_READY_PIPE";
/// The first socket that is handed over, by systemd's protocol.
const FIRST_FD: i32 = 3;
/// First processes of containers that end, and the container with them, when the process ends that they have started.
const END_WITH_THEIR_CHILD: [&str; 10] = [
    "tini",
    "docker-init",
    "podman-init",
    "catatonit",
    "dumb-init",
    "sh",
    "bash",
    "dash",
    "ash",
    "busybox",
];

/// How to start this program again, and what to hand over. See the [module docs](super).
///
/// ```
/// use std::time::Duration;
///
/// use stellane_core::{connection::Listener, restart::Restart};
///
/// # async fn example(listeners: Vec<Listener>) -> Result<(), Box<dyn std::error::Error>> {
/// let restart = Restart::from_process()?.with_listeners("http", &listeners)?;
/// let successor = restart.hand_over(Duration::from_secs(30)).await?;
/// println!("process {successor} has taken over");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Restart {
    program: PathBuf,
    arguments: Vec<OsString>,
    sockets: Vec<(String, OwnedFd)>,
    /// The container would end with this process.
    is_first: bool,
}

impl Restart {
    /// The program as it was started: the same path, so that a new file there is a new program, and the same arguments.
    ///
    /// # Errors
    /// The system doesn't say where the program is.
    pub fn from_process() -> io::Result<Self> {
        Ok(Self {
            program: program()?,
            arguments: env::args_os().skip(1).collect(),
            sockets: Vec::new(),
            is_first: is_first(),
        })
    }

    /// Another program.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Other arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Hands these over under a name (`LISTEN_FDNAMES`). They stay open here too, and in the new process alone once this
    /// one is dropped and has closed its own.
    ///
    /// # Errors
    /// There are no more open files.
    pub fn with_listeners<'a, L: AsFd + 'a>(
        mut self,
        name: &str,
        listeners: impl IntoIterator<Item = &'a L>,
    ) -> io::Result<Self> {
        for listener in listeners {
            let socket = listener.as_fd().try_clone_to_owned()?;
            self.sockets.push((name.to_owned(), socket));
        }
        Ok(self)
    }

    /// Starts the program, and waits until it is [`ready`](super::ready); the number of its process.
    ///
    /// Dropping the future, as a timeout does, ends the new process and those that it has started.
    ///
    /// # Errors
    /// It can't be started, ends, or is not ready after `patience`. Then it is gone and nothing has changed.
    /// The first process of a container starts none: the container would end with it.
    pub async fn hand_over(&self, patience: Duration) -> Result<u32, RestartError> {
        if self.is_first {
            return Err(RestartError::First);
        }
        let (reader, writer) = io::pipe().map_err(RestartError::Start)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(RestartError::Start)?;
        let child = self.start(writer).map_err(RestartError::Start)?;
        let mut child = EndedUnlessReady(Some(child));
        let Some(process) = &mut child.0 else {
            return Err(RestartError::Start(io::ErrorKind::NotFound.into()));
        };
        let started = process.id();
        let ready = tokio::select! {
            ready = ready(reader, started) => ready,
            ended = process.wait() => return Err(match ended {
                Ok(status) => RestartError::Ended(status),
                Err(error) => RestartError::Start(error),
            }),
            () = tokio::time::sleep(patience) => return Err(RestartError::Late(patience)),
        };
        let pid = ready.map_err(RestartError::Start)?;
        // From here on it lives by itself.
        child.0 = None;
        Ok(pid)
    }

    fn start(&self, ready: PipeWriter) -> io::Result<Child> {
        let names: Vec<_> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        let sockets = self.sockets.iter().map(|(_, socket)| socket.try_clone());
        let handed: Vec<_> = sockets
            .chain([Ok(ready.into())])
            .collect::<io::Result<_>>()?;
        let ready_fd = FIRST_FD..;
        let ready_fd = ready_fd.clone().nth(self.sockets.len()).unwrap_or(FIRST_FD);
        let mappings = handed.into_iter().zip(FIRST_FD..);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("LISTEN_FDS", self.sockets.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            // Only the new process knows its number, and only a shell could set it there.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS_FIRST_FD")
            // It is the new process that systemd is to watch from now on.
            .env_remove("WATCHDOG_PID")
            .env(READY_PATH, format!("/dev/fd/{ready_fd}"))
            .stdin(Stdio::null())
            // So that those whom it starts end with it, should it have to.
            .process_group(0)
            .fd_mappings(mappings.collect())
            .map_err(io::Error::other)?;
        Command::from(command).spawn()
    }
}

struct EndedUnlessReady(Option<Child>);

impl Drop for EndedUnlessReady {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself, and left others.
            let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            let _ = child.start_kill();
        }
    }
}

/// Whether the container ends with this process: it is the first, or the first has started it and ends with it.
fn is_first() -> bool {
    let first = || std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    std::process::id() == 1 || parent_id() == 1 && END_WITH_THEIR_CHILD.contains(&first().trim())
}

/// As it was called, so that a file replaced on disk is found under its name; `/proc/self/exe` would say that it is deleted.
fn program() -> io::Result<PathBuf> {
    let exe = env::current_exe()?;
    let deleted = exe.to_str().and_then(|exe| exe.strip_suffix(" (deleted)"));
    Ok(deleted.map_or_else(|| exe.clone(), PathBuf::from))
}

/// The number that the new process says it has, or the one it was started with.
async fn ready(mut pipe: pipe::Receiver, started: Option<u32>) -> io::Result<u32> {
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        if pipe.read_buf(&mut said).await? == 0 {
            // It has closed the pipe: it will end, or be late.
            std::future::pending::<()>().await;
        }
    }
    let said = String::from_utf8_lossy(&said);
    let wrong = || io::Error::other("it said something else than its number");
    said.trim().parse().ok().or(started).ok_or_else(wrong)
}
