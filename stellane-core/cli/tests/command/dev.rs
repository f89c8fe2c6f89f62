//! `stellane dev` on a project of its own, with a client that asks every 10 ms: edit, compile error, fix.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A service without any dependency: it says what is in its source, and what its environment holds.
fn source(says: &str) -> String {
    format!(
        r#"use std::{{io::{{Read, Write}}, net::TcpListener, os::fd::FromRawFd, env}};

fn main() {{
    let ours = env::var("LISTEN_PID").unwrap() == std::process::id().to_string();
    assert!(ours && env::var("LISTEN_FDS").unwrap() == "1");
    // SAFETY: the protocol says that descriptor 3 is the socket, and it is taken once.
    let listener = unsafe {{ TcpListener::from_raw_fd(3) }};
    listener.set_nonblocking(false).unwrap();
    let seen = ["ENV", "HOT_RELOAD", "PROFILE_CPU", "PROFILE_MEM"]
        .map(|name| env::var(format!("STELLANE_{{name}}")).unwrap_or_default());
    let arguments: Vec<_> = env::args().skip(1).collect();
    let body = format!("{says} {{seen:?}} {{arguments:?}}");
    for stream in listener.incoming() {{
        let mut stream = stream.unwrap();
        stream.set_nonblocking(false).unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {{}}\r\nconnection: close\r\n\r\n{{body}}", body.len());
    }}
}}
"#
    )
}

struct Project(PathBuf);

impl Project {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("stellane-dev-{}", std::process::id()));
        fs::create_dir_all(path.join("src")).expect("folder");
        let manifest =
            "[package]\nname = \"served\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
        fs::write(path.join("Cargo.toml"), manifest).expect("manifest");
        Self(path)
    }

    fn write(&self, main: &str) {
        fs::write(self.0.join("src/main.rs"), main).expect("source");
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ends `stellane dev` whatever happens to the test.
struct Dev(Child);

impl Dev {
    fn start(project: &Project, address: SocketAddr) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stellane"));
        for (name, _) in std::env::vars_os() {
            // Of the build that runs this test, nothing is meant for the one below.
            if name.to_string_lossy().starts_with("STELLANE_")
                || name.to_string_lossy().starts_with("CARGO_")
            {
                command.env_remove(name);
            }
        }
        command
            .args([
                "dev",
                "--address",
                &address.to_string(),
                "--profile",
                "cpu",
                "--",
                "--",
                "an",
                "argument",
            ])
            .env(
                "CARGO",
                std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            )
            .env("CARGO_NET_OFFLINE", "true")
            .current_dir(&project.0)
            .stderr(Stdio::piped());
        Self(command.spawn().expect("starts"))
    }

    /// As Ctrl-C does it; gives what was said.
    fn stop(mut self) -> String {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .expect("kill")
                .success()
        );
        let mut said = String::new();
        self.0
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut said)
            .expect("text");
        assert!(self.0.wait().expect("ends").success());
        said
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(address: SocketAddr, accept: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn wait_for(address: SocketAddr, accept: &str, what: &str) -> String {
    let started = Instant::now();
    loop {
        let answer = ask(address, accept, "/").unwrap_or_default();
        if answer.contains(what) {
            return answer;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no `{what}`: {answer}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn edit_compile_error_and_fix_are_served_without_a_refused_connection() {
    let project = Project::new();
    project.write(&source("first"));
    let address = TcpListener::bind("127.0.0.1:0")
        .expect("binds")
        .local_addr()
        .expect("bound");
    let dev = Dev::start(&project, address);
    while TcpStream::connect(address).is_err() {
        thread::sleep(Duration::from_millis(5));
    }

    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let refused = Arc::new(Mutex::new(Vec::new()));
    let client = {
        let (stop, asked, refused) = (stop.clone(), asked.clone(), refused.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // This fixture does not drain: a reset in the middle of an answer is its own doing.
                match TcpStream::connect(address) {
                    Ok(_) => drop(asked.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => refused.lock().expect("lock").push(error.to_string()),
                }
                thread::sleep(Duration::from_millis(10));
            }
        })
    };

    let first = wait_for(address, "*/*", "first");
    assert!(
        first.contains(r#"["development", "true", "true", ""] ["an", "argument"]"#),
        "{first}"
    );

    project.write(&source("second"));
    wait_for(address, "*/*", "second");

    project.write(&source("third").replace("TcpListener::from_raw_fd", "TcpListener::from_row_fd"));
    let page = wait_for(address, "text/html", "<h1>The build failed</h1>");
    assert!(page.starts_with("HTTP/1.1 500 "), "{page}");
    assert!(
        page.contains("from_row_fd") && page.contains("src/main.rs"),
        "{page}"
    );
    assert!(
        page.contains("location.reload()"),
        "an open page loads again: {page}"
    );
    let text = wait_for(address, "*/*", "The build failed");
    assert!(!text.contains('\u{1b}') && !text.contains("<h1>"), "{text}");
    let id = ask(address, "*/*", "/__stellane/live").expect("answers");
    assert!(id.contains("stellane-dev-"), "{id}");

    project.write(&source("fixed"));
    wait_for(address, "*/*", "fixed");

    project.write("fn main() { std::process::exit(3) }");
    wait_for(address, "*/*", "exit status: 3");
    project.write(&source("again"));
    wait_for(address, "*/*", "again");

    stop.store(true, Ordering::Relaxed);
    client.join().expect("client");
    let refused = refused.lock().expect("lock");
    println!(
        "{} connections, {} refused",
        asked.load(Ordering::Relaxed),
        refused.len()
    );
    assert!(refused.is_empty(), "{refused:?}");
    let said = dev.stop();
    assert!(
        said.contains("profile: http://127.0.0.1:9090/debug/profile/cpu"),
        "{said}"
    );
    assert!(
        TcpStream::connect(address).is_err(),
        "nothing is left behind"
    );
}

#[test]
fn a_folder_without_a_manifest_and_a_bad_profile_are_one_clear_error() {
    for (arguments, message) in [
        (
            &["dev", "--address", "127.0.0.1:0"][..],
            "could not find `Cargo.toml`",
        ),
        (
            &["dev", "--address", "nowhere"],
            "can't listen on `nowhere`",
        ),
        (
            &["dev", "--profile", "gpu"],
            "[possible values: cpu, mem, block, all]",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_stellane"))
            .args(arguments)
            .current_dir(std::env::temp_dir())
            .output()
            .expect("runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(message), "{said}");
    }
}
