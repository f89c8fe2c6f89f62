//! What the programs share that compare servers: each server is the same program in a process of its own,
//! started as `PROGRAM serve NAME`, and answers every request with `hello`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
};

use stellane_core::BoxError;

/// The request that is measured.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// The kernel counts the CPU time of a process in hundredths of a second.
pub const TICK_MICROS: f64 = 10_000.0;

/// Allows this process the first CPU (`"0"`) or, if there are more, all others (`"1-"`), by `taskset` where there is one.
pub fn pin(cpus: &str) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = match cpus {
        "1-" if all > 1 => format!("1-{}", all - 1),
        _ => "0".to_owned(),
    };
    let pid = std::process::id().to_string();
    let mut command = Command::new("taskset");
    let done = command.args(["-acp", &cpus, &pid]).output();
    if !done.is_ok_and(|output| output.status.success()) {
        eprintln!("not pinned: there is no taskset");
    }
}

/// A server in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, which it says in its first line.
    pub address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts this program as the server of that name.
    ///
    /// # Errors
    /// A process that can't be started, or that does not say its address.
    pub fn start(name: &str, env: &[(&str, &str)]) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", name])
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse()?;
        Ok(Self { child, address })
    }

    /// User and kernel time so far, in ticks.
    ///
    /// # Errors
    /// A process that has ended.
    pub fn cpu(&self) -> Result<(u64, u64), BoxError> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold anything; the fields after it are numbers.
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let mut fields = fields.split_whitespace().skip(11).map(str::parse);
        Ok((
            fields.next().ok_or("no utime")??,
            fields.next().ok_or("no stime")??,
        ))
    }

    /// Resident bytes.
    ///
    /// # Errors
    /// A process that has ended.
    pub fn resident(&self) -> Result<u64, BoxError> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .ok_or("no VmRSS")?;
        let kilobytes: u64 = line.split_whitespace().nth(1).ok_or("no value")?.parse()?;
        Ok(kilobytes * 1024)
    }
}

/// Sends the request and reads its answer.
///
/// # Errors
/// A connection that fails.
pub fn request(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(GET)?;
    answer(stream)
}

/// Reads one answer.
///
/// # Errors
/// A connection that fails or ends.
pub fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; 512];
    let mut filled = 0;
    while !answer[..filled].ends_with(b"hello") {
        match stream.read(&mut answer[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(())
}

/// The whole program: serves if it was started as a server, else compares with the number it was given.
pub fn run(
    serve: impl FnOnce(&str) -> Result<(), BoxError>,
    compare: impl FnOnce(usize) -> Result<(), BoxError>,
    default: usize,
    usage: &str,
) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name] => {
            // Huge pages of mimalloc's are not what is measured.
            crate::small_pages_only();
            serve(name)
        }
        [] => compare(default),
        [number] => number.parse().map_err(Into::into).and_then(compare),
        _ => Err(format!("usage: {usage}").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
