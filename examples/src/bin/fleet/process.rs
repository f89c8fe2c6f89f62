//! The processes of the fleet: this program in another role, and Redis.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use stellane_core::BoxError;
use tokio::time::{sleep, timeout};

/// One that serves; killed when dropped, and ends by itself when its standard input does.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) role: String,
    pub(crate) address: String,
}

impl Process {
    pub(crate) fn start(role: &[&str]) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut process = Self {
            stdin: child.stdin.take(),
            child,
            role: role.concat(),
            address: String::new(),
        };
        role[0].clone_into(&mut process.role);
        BufReader::new(stdout).read_line(&mut process.address)?;
        process.address.truncate(process.address.trim_end().len());
        match process.address.is_empty() {
            true => Err(format!("{} does not start", process.role).into()),
            false => Ok(process),
        }
    }

    /// A line on its standard input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), BoxError> {
        let stdin = self.stdin.as_mut().ok_or("it has been told to end")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Has it drain and end.
    pub(crate) fn end(&mut self) {
        self.stdin = None;
    }

    /// Once it has.
    pub(crate) async fn ended(&mut self) -> Result<(), BoxError> {
        let wait = async {
            while self.child.try_wait()?.is_none() {
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        timeout(Duration::from_secs(60), wait).await?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server of Redis or Valkey of our own.
pub(crate) struct Redis {
    program: String,
    port: u16,
    child: Child,
}

impl Redis {
    /// `None` where there is none.
    pub(crate) fn start() -> Result<Option<Self>, BoxError> {
        let named = std::env::var("REDIS_SERVER").ok();
        let names = named
            .into_iter()
            .chain(["redis-server", "valkey-server"].map(str::to_owned));
        let is_there = |name: &String| {
            let version = Command::new(name).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let Some(program) = names.into_iter().find(is_there) else {
            return Ok(None);
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = run(&program, port)?;
        Ok(Some(Self {
            program,
            port,
            child,
        }))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn restart(&mut self) -> Result<(), BoxError> {
        self.child = run(&self.program, self.port)?;
        Ok(())
    }
}

fn run(program: &str, port: u16) -> Result<Child, BoxError> {
    let port = port.to_string();
    let arguments = [
        "--save",
        "",
        "--appendonly",
        "no",
        "--bind",
        "127.0.0.1",
        "--port",
        &port,
    ];
    let child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()?;
    Ok(child)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
