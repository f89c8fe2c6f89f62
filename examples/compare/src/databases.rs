//! The databases, filled with the same users for every server.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{BoxError, contestants::home, machine::output};

pub(crate) const USERS: u32 = 10_000;

/// One row; the servers answer with it as JSON.
pub(crate) fn user(id: u32) -> (String, &'static str) {
    (format!("user {id}"), ["eu", "us", "ap"][(id % 3) as usize])
}

const TABLE: &str =
    "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, region TEXT NOT NULL)";

/// A file with the users; made anew.
pub(crate) fn sqlite() -> Result<PathBuf, BoxError> {
    let folder = home().join("target/compare");
    fs::create_dir_all(&folder)?;
    let path = folder.join("users.sqlite");
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let mut connection = rusqlite::Connection::open(&path)?;
    let transaction = connection.transaction()?;
    transaction.execute(TABLE, [])?;
    for id in 1..=USERS {
        let (name, region) = user(id);
        let values = rusqlite::params![id, name, region];
        transaction.execute("INSERT INTO users VALUES (?1, ?2, ?3)", values)?;
    }
    transaction.commit()?;
    Ok(path)
}

/// PostgreSQL in a folder of its own; gone when dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    child: Child,
    folder: PathBuf,
    pub url: String,
    pub version: String,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        // "Fast shutdown": killed, it would leave its shared memory behind.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The account that PostgreSQL runs under when we are root, which it refuses.
const ACCOUNT: &str = "postgres";

impl Postgres {
    pub(crate) fn start() -> Result<Self, BoxError> {
        let programs = programs()?;
        let folder = std::env::temp_dir().join(format!("stellane-compare-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        if rustix::process::getuid().is_root() {
            let id = |flag| output("id", &[flag, ACCOUNT]).parse::<u32>();
            let user = id("-u").map_err(|_| format!("there is no account {ACCOUNT}"))?;
            chown(&folder, Some(user), Some(id("-g")?))?;
        }
        let data = folder.join("data");
        let made = command(&programs.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=compare", "-D"])
            .arg(&data)
            .current_dir(&folder)
            .output()?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into());
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = command(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args([
                "-p",
                &port.to_string(),
                "-h",
                "127.0.0.1",
                "-c",
                "fsync=off",
            ])
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "max_connections=400",
            ])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let postgres = Self {
            child,
            folder,
            url: format!("postgres://compare@127.0.0.1:{port}/postgres"),
            version: output(&programs.join("postgres").to_string_lossy(), &["--version"]),
        };
        postgres.fill()?;
        Ok(postgres)
    }

    fn fill(&self) -> Result<(), BoxError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let end = Instant::now() + Duration::from_secs(15);
            let (client, connection) = loop {
                match tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await {
                    Ok(connected) => break connected,
                    Err(error) if Instant::now() > end => return Err(error.into()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            tokio::spawn(connection);
            client.batch_execute(TABLE).await?;
            let values: Vec<String> = (1..=USERS)
                .map(|id| {
                    let (name, region) = user(id);
                    format!("({id}, '{name}', '{region}')")
                })
                .collect();
            let insert = format!("INSERT INTO users VALUES {}", values.join(","));
            client.batch_execute(&insert).await?;
            client.batch_execute("ANALYZE users").await?;
            Ok(())
        })
    }
}

/// A command under an account that PostgreSQL accepts.
fn command(program: &Path) -> Command {
    if !rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    // It becomes the program, so that signals reach it.
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"])
        .arg(program);
    command
}

fn programs() -> Result<PathBuf, BoxError> {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut debian: Vec<PathBuf> = folders.flatten().map(|f| f.path().join("bin")).collect();
    debian.sort();
    let path = std::env::var("PATH").unwrap_or_default();
    let on_path = path.split(':').map(PathBuf::from);
    debian
        .into_iter()
        .rev()
        .chain(on_path)
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .ok_or_else(|| "PostgreSQL is not installed".into())
}
