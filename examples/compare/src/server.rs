//! A server under measurement: a process of its own on cores of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};

use crate::BoxError;

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(10);

/// The cores of the servers and those of the load generator.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Cores {
    pub server: Vec<usize>,
    pub load: Vec<usize>,
}

impl Cores {
    /// One core for the load generator, `workers` for the server; they share what there is too little of.
    pub(crate) fn split(cpus: usize, workers: usize) -> Self {
        Self {
            server: (0..workers.min(cpus)).collect(),
            load: vec![cpus - 1],
        }
    }
}

/// Moves the calling thread, and what it starts from now on, to `cores`.
pub(crate) fn pin(cores: &[usize]) -> Result<(), BoxError> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// How a server is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Where it will listen, for a server that does not say it.
    pub address: Option<SocketAddr>,
}

/// CPU time so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// From the scheduler, exact: microseconds.
    total: f64,
    /// Hundredths of a second, whose proportion parts the total.
    user: f64,
    kernel: f64,
}

impl Cpu {
    /// Microseconds spent since `before`: by the program, and by the kernel for it.
    pub(crate) fn since(self, before: Self) -> (f64, f64) {
        let total = self.total - before.total;
        let user = self.user - before.user;
        let ticks = user + self.kernel - before.kernel;
        let part = if ticks > 0.0 { user / ticks } else { 0.5 };
        (total * part, total * (1.0 - part))
    }
}

/// Bytes in memory that are the process's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub resident: u64,
    /// Pages shared among processes count in part only.
    pub proportional: u64,
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub address: SocketAddr,
    /// Processes beside the first one, such as nginx's workers.
    workers: Vec<u32>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for worker in &self.workers {
            if let Some(pid) = Pid::from_raw(worker.cast_signed()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it on `cores` and waits until it listens.
    pub(crate) fn start(launch: &Launch, cores: &Cores) -> Result<Self, BoxError> {
        pin(&cores.server)?;
        let mut command = Command::new(&launch.program);
        for (name, _) in std::env::vars_os() {
            // What configures a developer's own server must not configure these.
            if name.to_string_lossy().starts_with("STELLANE_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&launch.arguments)
            // Else the system makes huge pages of mimalloc's, whenever it gets to it, for every server alike: 6 to
            // 14 MB that say nothing of connections.
            .env("MIMALLOC_ALLOW_THP", "0")
            .envs(launch.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(match std::env::var_os("COMPARE_STDERR") {
                Some(_) => Stdio::inherit(),
                None => Stdio::null(),
            })
            .spawn();
        pin(&cores.load)?;
        let mut child = child.map_err(|error| format!("{}: {error}", launch.program.display()))?;
        let address = match launch.address {
            Some(address) => until_open(address),
            None => first_line(&mut child),
        };
        let mut server = Self {
            child,
            address: ([127, 0, 0, 1], 0).into(),
            workers: Vec::new(),
        };
        server.address = address?;
        let id = server.child.id();
        let children = format!("/proc/{id}/task/{id}/children");
        server.workers = fs::read_to_string(children)
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect();
        Ok(server)
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.child.id()).chain(self.workers.iter().copied())
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Cpu, BoxError> {
        let mut sum = Cpu::default();
        for id in self.processes() {
            let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
            // The name in parentheses may hold anything; the fields after it are numbers.
            let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
            let mut fields = fields.split_whitespace().skip(11).map(str::parse::<f64>);
            sum.user += fields.next().ok_or("no utime")??;
            sum.kernel += fields.next().ok_or("no stime")??;
            sum.total += threads_cpu(id)?;
        }
        Ok(sum)
    }

    pub(crate) fn memory(&self) -> Result<Memory, BoxError> {
        let mut sum = Memory {
            resident: 0,
            proportional: 0,
        };
        for id in self.processes() {
            let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
            let bytes = |key: &str| -> Result<u64, BoxError> {
                let line = rollup.lines().find_map(|line| line.strip_prefix(key));
                let kilobytes = line.and_then(|line| line.split_whitespace().next());
                Ok(kilobytes.ok_or("no memory")?.parse::<u64>()? * 1024)
            };
            sum.resident += bytes("Rss:")?;
            sum.proportional += bytes("Pss:")?;
        }
        Ok(sum)
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> Result<(), BoxError> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).ok_or("no process")?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Whether it has ended within `patience`.
    pub(crate) fn ended(&mut self, patience: Duration) -> Result<bool, BoxError> {
        let end = Instant::now() + patience;
        loop {
            if self.child.try_wait()?.is_some() {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// CPU time of all threads of a process, in microseconds.
fn threads_cpu(id: u32) -> Result<f64, BoxError> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread may end while we look.
        if let Ok(stat) = fs::read_to_string(thread?.path().join("schedstat")) {
            let first = stat.split_whitespace().next().ok_or("no schedstat")?;
            nanos += first.parse::<u64>()?;
        }
    }
    Ok(nanos as f64 / 1000.0)
}

/// The address that a server prints.
fn first_line(child: &mut Child) -> Result<SocketAddr, BoxError> {
    let stdout = child.stdout.take().ok_or("no output")?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut lines = BufReader::new(stdout);
        let read = lines.read_line(&mut line);
        let _ = tell.send(read.map(|_| line));
        // The pipe stays open, for what the server prints later.
        let _ = std::io::copy(&mut lines, &mut std::io::sink());
    });
    let line = told.recv_timeout(START).map_err(|_| "it did not start")??;
    let line = line.trim();
    Ok(line
        .parse()
        .map_err(|_| format!("it did not start: `{line}` is no address"))?)
}

fn until_open(address: SocketAddr) -> Result<SocketAddr, BoxError> {
    let end = Instant::now() + START;
    while std::net::TcpStream::connect(address).is_err() {
        if Instant::now() >= end {
            return Err("it did not start".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(address)
}
