//! The side of the old process.

use std::{
    env,
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use tokio::{
    io::AsyncReadExt,
    net::UnixListener,
    process::{Child, Command},
};

use super::RestartError;

/// Where the new process says that it is ready.
pub(super) const READY_PATH: &str = "STELLANE_READY_SOCKET";
/// The first socket that is handed over, by systemd's protocol.
const FIRST_FD: i32 = 3;
/// Sets the number of the process that will be, which only that process knows.
const SCRIPT: &str = r#"LISTEN_PID=$$; export LISTEN_PID; exec "$0" "$@""#;

/// How to start this program again, and what to hand over. See the [module docs](super).
#[derive(Debug)]
pub struct Restart {
    program: PathBuf,
    arguments: Vec<OsString>,
    sockets: Vec<(String, OwnedFd)>,
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
    /// Dropping the future, as a timeout does, ends the new process.
    ///
    /// # Errors
    /// It can't be started, ends, or is not ready after `patience`. Then it is gone and nothing has changed.
    pub async fn hand_over(&self, patience: Duration) -> Result<u32, RestartError> {
        let socket = ReadySocket::bind().map_err(RestartError::Start)?;
        let child = self.start(&socket.path).map_err(RestartError::Start)?;
        let mut child = EndedUnlessReady(Some(child));
        let Some(process) = &mut child.0 else {
            return Err(RestartError::Start(io::ErrorKind::NotFound.into()));
        };
        let started = process.id();
        let ready = tokio::select! {
            ready = socket.ready(started) => ready,
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

    fn start(&self, ready: &Path) -> io::Result<Child> {
        let names: Vec<_> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        let mappings = self
            .sockets
            .iter()
            .zip(FIRST_FD..)
            .map(|((_, socket), child_fd)| {
                Ok(FdMapping {
                    parent_fd: socket.try_clone()?,
                    child_fd,
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT])
            .arg(&self.program)
            .args(&self.arguments)
            .env("LISTEN_FDS", self.sockets.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env_remove("LISTEN_FDS_FIRST_FD")
            .env(READY_PATH, ready)
            .stdin(Stdio::null());
        if !mappings.is_empty() {
            command.fd_mappings(mappings).map_err(io::Error::other)?;
        }
        Command::from(command).spawn()
    }
}

struct EndedUnlessReady(Option<Child>);

impl Drop for EndedUnlessReady {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.start_kill();
        }
    }
}

/// As it was called, so that a file replaced on disk is found under its name; `/proc/self/exe` would say that it is deleted.
fn program() -> io::Result<PathBuf> {
    let exe = env::current_exe()?;
    let deleted = exe.to_str().and_then(|exe| exe.strip_suffix(" (deleted)"));
    Ok(deleted.map_or_else(|| exe.clone(), PathBuf::from))
}

/// A Unix socket in a folder that only this user can enter, so that nobody else says "ready".
struct ReadySocket {
    folder: PathBuf,
    path: PathBuf,
    listener: UnixListener,
}

impl ReadySocket {
    fn bind() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stellane-restart-{}-{count}", std::process::id());
        let folder = env::temp_dir().join(name);
        // One of an earlier process with the same number; not that of another user, which fails below.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let path = folder.join("ready");
        let listener = UnixListener::bind(&path)?;
        Ok(Self {
            folder,
            path,
            listener,
        })
    }

    /// The number that the new process says it has, or the one it was started with.
    async fn ready(&self, started: Option<u32>) -> io::Result<u32> {
        let (mut new, _) = self.listener.accept().await?;
        let mut said = String::new();
        new.read_to_string(&mut said).await?;
        let wrong = || io::Error::other("it said something else than its number");
        said.trim().parse().ok().or(started).ok_or_else(wrong)
    }
}

impl Drop for ReadySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
