//! How the process of a preset ends: signals at any time, threads that are blocked, files that hang. Each case is this
//! test program once more, as a process of its own.
#![cfg(all(target_os = "linux", feature = "full"))]

use std::{
    convert::Infallible,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{net::UnixDatagram, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio, Termination},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use stellane_core::{RequestBody, Runtime, config::Loader};

const MODE: &str = "STELLANE_TEST_MODE";

/// What a process of its own does; nothing in this one.
#[test]
#[expect(clippy::exit, reason = "it is the end of a program of its own")]
fn child() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let success = runtime.block_on(serve(&mode));
    // As `tokio::main` does; it waits for threads that are blocked.
    drop(runtime);
    match mode.as_str() {
        "goes on" => {
            say("goes on");
            std::thread::sleep(Duration::from_secs(600));
        }
        _ => std::process::exit(i32::from(!success)),
    }
}

fn say(line: &str) {
    println!("\nchild: {line}");
}

async fn handle(
    request: Request<RequestBody>,
) -> Result<Response<BoxBody<bytes::Bytes, Infallible>>, Infallible> {
    match request.uri().path() {
        path @ ("/block" | "/block-all") => {
            let runtime = tokio::runtime::Handle::current();
            if path == "/block-all" {
                // From a thread of another kind, so that it waits in the queue that all workers look at.
                let other = std::thread::spawn(move || {
                    runtime.spawn(async { std::thread::sleep(Duration::from_secs(600)) });
                });
                other.join().expect("spawns");
            }
            say("blocked");
            std::thread::sleep(Duration::from_secs(600));
        }
        "/sleep" => {
            say("sleeps");
            std::thread::sleep(Duration::from_secs(5));
        }
        "/page" => {
            let page = Response::builder().header("content-type", "text/html");
            let page = page.body(Full::from("<p>hello").boxed());
            return Ok(page.expect("valid"));
        }
        "/hang" => {
            say("hangs");
            let hung = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(600)));
            let _ = hung.await;
        }
        "/lend" => {
            drop(tokio::task::spawn_blocking(|| {
                std::thread::sleep(Duration::from_secs(600));
            }));
        }
        "/wait" => {
            say("waits");
            std::future::pending::<()>().await;
        }
        "/files" => {
            // None is left, for as long as this lives.
            while let Ok(file) = fs::File::open("/dev/null") {
                std::mem::forget(file);
            }
        }
        "/panic" => {
            stellane_core::metrics::label_route("/panic");
            // A pipe takes sixteen of them.
            panic!("on purpose {}", "x".repeat(4096))
        }
        _ => {}
    }
    Ok(Response::new(Full::from("hello").boxed()))
}

async fn two_lines() -> bool {
    let bound = stellane_core::serve("127.0.0.1:0", tower::service_fn(handle)).bind();
    match bound.await {
        Ok(bound) => {
            say(&format!("serves {}", bound.local_addr()));
            bound.serve().await.is_ok()
        }
        Err(error) => {
            say(&format!("error {error}"));
            false
        }
    }
}

async fn serve(mode: &str) -> bool {
    if mode == "two lines" {
        return two_lines().await;
    }
    let mut config = match Loader::from_process().load() {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    };
    config.server.address = "127.0.0.1:0".to_owned();
    if std::env::var_os("STELLANE_TEST_ADMIN").is_none() {
        config.server.admin_address = String::new();
    }
    config.log.level = "info".to_owned();
    if mode == "own hook" {
        std::panic::set_hook(Box::new(|_| say("own hook")));
    }
    let mut builder = Runtime::builder();
    if mode != "no log" {
        let log = stellane_core::logging::init(&config.log).expect("the first");
        builder = builder.log_handle(log);
    }
    if mode == "check blocks" {
        let second = Duration::from_secs(1);
        builder = builder.ready_check("blocks", second, second, async || {
            say("blocks");
            std::thread::sleep(Duration::from_secs(600));
            Ok::<_, Infallible>(())
        });
    }
    let built = builder
        .config(config)
        .service(tower::service_fn(handle))
        .build()
        .expect("builds");
    if mode == "built" {
        say("built");
        std::thread::sleep(Duration::from_secs(600));
    }
    let built = if mode == "one after the other" {
        // The second is being made while the first serves, and begins when that has ended.
        let first = stellane_core::serve("127.0.0.1:0", tower::service_fn(handle));
        let bound = first.bind().await.expect("binds");
        say(&format!("serves {}", bound.local_addr()));
        bound.serve().await.expect("serves");
        say("the first has ended");
        built
    } else {
        built
    };
    let bound = built.bind_configured().await.expect("binds");
    say(&format!("serves {}", bound.local_addr()));
    if let Some(admin) = bound.admin_addr() {
        say(&format!("admin {admin}"));
    }
    let report = bound.serve().await.expect("serves");
    say(&format!("report {report}"));
    report.report() == std::process::ExitCode::SUCCESS
}

/// A process that ends with the test.
struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

fn lines(of: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(of).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

fn command(mode: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(MODE, mode)
        .env("STELLANE__SERVER__DRAIN_TIMEOUT", "1s")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Process {
    fn start(mode: &str) -> Self {
        Self::spawn(&mut command(mode))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("starts");
        let lines = lines_of(&mut child);
        let errors = child.stderr.take().map_or_else(|| channel().1, self::lines);
        Self {
            child,
            lines,
            errors,
        }
    }

    /// The rest of the line that begins so.
    fn hear(&self, begins: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|error| panic!("never `{begins}`: {error}"));
            let said = line.strip_prefix("child: ");
            if let Some(rest) = said.and_then(|said| said.strip_prefix(begins)) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Its address, once it answers there.
    fn address(&self) -> SocketAddr {
        let address = self.hear("serves").parse().expect("an address");
        let mut answer = [0; 12];
        ask(address, "/").read_exact(&mut answer).expect("answers");
        address
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// How it ends, which it does.
    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its errors up to the line that has this in it.
    fn errors_until(&self, what: &str) -> String {
        let mut said = String::new();
        while !said.contains(what) {
            let line = self.errors.recv_timeout(Duration::from_secs(60));
            said += &line.unwrap_or_else(|error| panic!("never `{what}`: {error}"));
            said.push('\n');
        }
        said
    }

    fn errors(&self) -> String {
        self.errors.iter().collect::<Vec<_>>().join("\n")
    }
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    lines(child.stdout.take().expect("piped"))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("writes");
    stream
}

#[test]
fn a_signal_before_the_service_begins_is_obeyed() {
    let mut process = Process::start("built");
    process.hear("built");
    process.signal("-TERM");
    assert_eq!(process.end().code(), Some(0));
    let mut process = Process::start("built");
    process.hear("built");
    process.signal("-INT");
    assert_eq!(process.end().signal(), Some(2));
}

#[test]
fn a_signal_ends_also_what_begins_to_serve_after_it() {
    let mut process = Process::start("one after the other");
    process.address();
    process.signal("-TERM");
    process.hear("the first has ended");
    process.hear("report");
    assert_eq!(process.end().code(), Some(0));
}

#[test]
fn the_environment_chooses_the_profile_of_two_lines_too() {
    for (profile, script) in [("", false), ("development", true)] {
        let process = Process::spawn(command("two lines").env("STELLANE_ENV", profile));
        let mut stream = ask(process.address(), "/page");
        stream.shutdown(Shutdown::Write).expect("connected");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        assert_eq!(answer.contains("<script>"), script, "{profile}: {answer}");
    }
    let mut process = Process::spawn(command("two lines").env("STELLANE_ENV", "prod"));
    let error = process.hear("error");
    assert!(error.contains("unknown profile `prod`"), "{error}");
    assert_eq!(process.end().code(), Some(1));
}

#[test]
fn the_first_signal_drains_and_the_report_says_what_was_cut() {
    let mut process = Process::start("serve");
    let address = process.address();
    let _idle = ask(address, "/");
    process.signal("-TERM");
    let report = process.hear("report");
    assert!(report.contains(" 0 of them cut"), "{report}");
    assert_eq!(process.end().code(), Some(0));

    let mut process = Process::start("serve");
    let _waits = ask(process.address(), "/wait");
    process.hear("waits");
    process.signal("-TERM");
    let report = process.hear("report");
    assert!(report.contains(" 1 of them cut"), "{report}");
    assert_eq!(process.end().code(), Some(1));
}

#[test]
fn the_second_signal_ends_at_once_and_says_what_is_cut() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut command = command("serve");
        command.env("STELLANE__SERVER__DRAIN_TIMEOUT", "1h");
        let mut process = Process::spawn(&mut command);
        let _waits = ask(process.address(), "/wait");
        process.hear("waits");
        process.signal("-TERM");
        // The first is being obeyed.
        while !process
            .errors
            .recv_timeout(Duration::from_secs(60))
            .expect("it is said")
            .contains("draining")
        {}
        process.signal(signal);
        assert_eq!(process.end().code(), Some(code));
        let said = process.errors();
        assert!(said.contains("1 connections are cut"), "{said}");
    }
}

#[test]
fn a_program_that_goes_on_can_be_ended_by_signals() {
    for signal in [2, 15] {
        let mut process = Process::start("goes on");
        process.address();
        process.signal("-TERM");
        process.hear("goes on");
        process.signal(&format!("-{signal}"));
        assert_eq!(process.end().signal(), Some(signal));
    }
}

#[test]
fn handlers_that_hold_threads_do_not_hold_the_process() {
    // One of the two threads, and then both: nobody is left to drain.
    for path in ["/block", "/block-all"] {
        let mut process = Process::start("serve");
        let _held = ask(process.address(), path);
        process.hear("blocked");
        process.signal("-TERM");
        assert_eq!(process.end().code(), Some(143));
        let said = process.errors();
        // Nobody may have noticed that another one was closed before.
        assert!(said.contains(" 1 of them in the midst"), "{said}");
    }
}

#[test]
fn an_end_while_handlers_sleep_by_their_threads_loses_no_answer_and_holds_up_nobody() {
    let mut command = command("serve");
    command
        .env("STELLANE__ENGINE__KIND", "handoff")
        .env("STELLANE__ENGINE__CORES", "2")
        .env("STELLANE__SERVER__DRAIN_DELAY", "8s")
        .env("STELLANE__SERVER__DRAIN_TIMEOUT", "60s")
        .env("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0")
        .env("STELLANE_TEST_ADMIN", "1");
    let mut process = Process::spawn(&mut command);
    let address = process.hear("serves").parse().expect("an address");
    let admin = process.hear("admin").parse().expect("an address");
    let status = |address, path: &str| {
        let mut answer = [0; 12];
        ask(address, path).read_exact(&mut answer).expect("answers");
        String::from_utf8_lossy(&answer[9..]).into_owned()
    };
    assert_eq!(status(address, "/"), "200");
    let sleeping: Vec<_> = (0..10).map(|_| ask(address, "/sleep")).collect();
    for _ in 0..10 {
        process.hear("sleeps");
    }
    process.signal("-TERM");
    while status(admin, "/readyz") == "200" {}
    for _ in 0..10 {
        // Until the delay is over.
        assert_eq!(status(address, "/"), "200");
        assert_eq!(status(admin, "/healthz"), "200");
    }
    for mut sleeper in sleeping {
        let mut answer = [0; 12];
        sleeper.read_exact(&mut answer).expect("answers");
        assert!(answer.ends_with(b"200"));
    }
    let report = process.hear("report");
    assert!(report.contains(" 0 of them cut"), "{report}");
    assert_eq!(process.end().code(), Some(0));
}

/// The admin address of a process with this one configured, and of the one that takes over when it is another.
fn admin_after_restart(was: &str, now: &str) -> (SocketAddr, bool) {
    let folder = temporary(&format!("restart-{}", now.replace(':', "-")));
    let file = folder.join("app.toml");
    let configure = |admin: &str| {
        let text = format!("[server]\nadmin_address = \"{admin}\"\n");
        fs::write(&file, text).expect("writes");
    };
    configure(was);
    let mut process = Process::spawn(
        command("serve")
            .env("STELLANE_CONFIG", &file)
            .env("STELLANE_TEST_ADMIN", "1"),
    );
    process.address();
    configure(now);
    process.signal("-USR2");
    let mut warned = false;
    let successor = loop {
        let line = process.errors.recv_timeout(Duration::from_secs(60));
        let line = line.expect("a new process takes over");
        warned |= line.contains("the new address can't be listened on");
        if let Some((_, pid)) = line.split_once("a new process has taken over") {
            // There may be colours before the number.
            let pid = pid.rsplit(['=', 'm']).next();
            break pid.expect("a number").trim().to_owned();
        }
    };
    let admin = process.hear("admin");
    // The first is that of the process before.
    let admin = match admin == was {
        true => process.hear("admin"),
        false => admin,
    };
    assert_eq!(process.end().code(), Some(0));
    let ended = Command::new("kill").arg(successor).status();
    assert!(ended.expect("there is a kill").success());
    fs::remove_dir_all(&folder).expect("removes");
    (admin.parse().expect("an address"), warned)
}

#[test]
fn a_process_that_takes_over_listens_where_it_is_told_or_says_that_it_can_not() {
    let free = || {
        let socket = TcpListener::bind("0.0.0.0:0").expect("binds");
        socket.local_addr().expect("an address").port()
    };
    let (was, now) = (
        format!("127.0.0.1:{}", free()),
        format!("127.0.0.1:{}", free()),
    );
    let (admin, warned) = admin_after_restart(&was, &now);
    assert_eq!((admin.to_string(), warned), (now, false));
    // While the process before listens on all addresses, nobody can listen on one of them.
    let port = free();
    let was = format!("0.0.0.0:{port}");
    let (admin, warned) = admin_after_restart(&was, &format!("127.0.0.1:{port}"));
    assert_eq!((admin.to_string(), warned), (was, true));
}

#[test]
fn work_that_a_handler_has_lent_out_and_that_hangs_does_not_hold_the_process() {
    let mut process = Process::start("serve");
    let _held = ask(process.address(), "/hang");
    process.hear("hangs");
    process.signal("-TERM");
    // The drain itself has ended.
    process.hear("report");
    assert_eq!(process.end().code(), Some(143));
}

#[test]
fn what_nobody_waits_for_any_more_does_not_hold_the_process() {
    let mut process = Process::start("check blocks");
    process.address();
    process.hear("blocks");
    process.signal("-TERM");
    assert!(process.hear("report").contains(" 0 of them cut"));
    assert_eq!(process.end().code(), Some(143));
    // Lent out by a request that was answered long ago.
    let mut process = Process::start("serve");
    let mut answer = [0; 12];
    let mut stream = ask(process.address(), "/lend");
    stream.read_exact(&mut answer).expect("answers");
    process.signal("-TERM");
    assert!(process.hear("report").contains(" 0 of them cut"));
    assert_eq!(process.end().code(), Some(143));
}

#[test]
fn a_file_that_hangs_does_not_hold_the_process() {
    let folder = temporary("fifo");
    let file = folder.join("app.toml");
    fs::write(&file, "[log]\nlevel = \"info\"\n").expect("writes");
    let mut process = Process::spawn(command("serve").env("STELLANE_CONFIG", &file));
    let address = process.address();
    fs::remove_file(&file).expect("removes");
    let made = Command::new("mkfifo").arg(&file).status();
    assert!(made.expect("there is a mkfifo").success());
    // Until it is read: whoever opens it is held until somebody writes.
    let is_held = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.child.id())).expect("lists");
        tasks.flatten().any(|task| {
            fs::read_to_string(task.path().join("wchan"))
                .is_ok_and(|at| at.contains("fifo") || at.contains("partner"))
        })
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    while !is_held() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut answer = String::new();
    let mut stream = ask(address, "/");
    process.signal("-TERM");
    stream.read_to_string(&mut answer).expect("answers");
    assert!(answer.ends_with("hello"), "{answer}");
    assert_eq!(process.end().code(), Some(0));
    fs::remove_dir_all(&folder).expect("removes");
}

#[test]
fn errors_that_nobody_reads_hold_neither_the_service_nor_the_process() {
    let mut child = command("serve").spawn().expect("starts");
    let lines = lines_of(&mut child);
    // Nobody reads it, and it stays open.
    let _unread = child.stderr.take();
    let mut process = Process {
        child,
        lines,
        errors: channel().1,
    };
    let address = process.address();
    let status = |path: &str| {
        let mut stream = ask(address, path);
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).expect("sets");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("answers");
        String::from_utf8_lossy(&answer[9..]).into_owned()
    };
    for _ in 0..200 {
        assert_eq!(status("/panic"), "500");
    }
    assert_eq!(status("/"), "200");
    process.signal("-TERM");
    process.end();
}

#[test]
fn a_panic_is_told_once_with_its_route() {
    for (mode, says_so) in [("serve", "panicked: on purpose"), ("no log", "panicked at")] {
        let mut process = Process::start(mode);
        let mut answer = [0; 12];
        let mut stream = ask(process.address(), "/panic");
        stream.read_exact(&mut answer).expect("answers");
        assert_eq!(&answer, b"HTTP/1.1 500");
        // With a backtrace it takes a while, for which the end waits only so long.
        let mut said = process.errors_until("on purpose");
        process.signal("-TERM");
        assert_eq!(process.end().code(), Some(0));
        said += &process.errors();
        assert_eq!(said.matches("on purpose").count(), 1, "{said}");
        for what in [says_so, "/panic", "process_end.rs"] {
            assert!(said.contains(what), "{what} in {said}");
        }
    }
}

#[test]
fn a_hook_for_panics_that_the_program_brings_stays() {
    let process = Process::start("own hook");
    let _ended = ask(process.address(), "/panic");
    process.hear("own hook");
}

#[test]
fn few_open_files_are_shared_with_clients_and_told_once() {
    let inner = command("serve");
    let mut outer = Command::new("sh");
    outer
        .args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    outer
        .env("STELLANE_TEST_ADMIN", "1")
        .env("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::spawn(&mut outer);
    let address = process.address();
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut answer = [0; 12];
        let mut stream = ask(address, "/");
        stream.read_exact(&mut answer).expect("answers");
        assert_eq!(&answer, b"HTTP/1.1 200");
        open.push(stream);
    }
    process.signal("-TERM");
    assert_eq!(process.end().code(), Some(0));
    let said = process.errors();
    let times = said.matches("the limit of open files allows").count();
    assert_eq!(times, 1, "{said}");
}

/// Newcomers wait in the queue of the system; who is connected, parked or not, is served as if nothing were, and asked to go
/// with an answer, so that they come in.
#[test]
fn without_an_open_file_parked_connections_are_served_at_once() {
    let mut command = command("serve");
    command
        .env("STELLANE__CONNECTION__PARK_AFTER", "10ms")
        // Who pauses for longer is closed without a word, and on a busy machine this test does.
        .env("STELLANE__CONNECTION__DRAIN_IDLE", "1m")
        .env("STELLANE__SERVER__DRAIN_TIMEOUT", "1m");
    let process = Process::spawn(&mut command);
    let address = process.address();
    let patience = Some(Duration::from_secs(30));
    // The answer, and whether the connection stays.
    let stays = |stream: &mut TcpStream| {
        stream.set_read_timeout(patience).expect("is set");
        let mut answer = [0; 512];
        let n = stream.read(&mut answer).expect("answers");
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        !answer.contains("connection: close")
    };
    let mut open: Vec<_> = (0..20).map(|_| ask(address, "/")).collect();
    open.retain_mut(stays);
    assert!(stays(&mut ask(address, "/files")));
    let newcomers: Vec<_> = (0..30).map(|_| ask(address, "/")).collect();
    // An accept loop that slept for a second at each error would take longer.
    let began = Instant::now();
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(20));
        open.retain_mut(|stream| {
            write!(stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("writes");
            stays(stream)
        });
    }
    assert!(Some(began.elapsed()) < patience, "{:?}", began.elapsed());
    for mut newcomer in newcomers {
        stays(&mut newcomer);
    }
}

#[test]
fn systemd_hears_of_every_step() {
    hears_of_every_step(true, false);
    // A reload with nothing to reload is no hangup.
    hears_of_every_step(false, false);
    hears_of_every_step(false, true);
}

/// A socket to hear on, and its name in `NOTIFY_SOCKET`.
fn notify_socket(folder: &Path, is_abstract: bool) -> (UnixDatagram, OsString) {
    if is_abstract {
        use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
        let name = format!("stellane-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short");
        let socket = UnixDatagram::bind_addr(&address).expect("binds");
        return (socket, format!("@{name}").into());
    }
    let path = folder.join("notify");
    (UnixDatagram::bind(&path).expect("binds"), path.into())
}

fn hears_of_every_step(has_file: bool, is_abstract: bool) {
    let folder = temporary(&format!("systemd-{has_file}-{is_abstract}"));
    let file = folder.join("app.toml");
    fs::write(&file, "[log]\nlevel = \"info\"\n").expect("writes");
    let (socket, name) = notify_socket(&folder, is_abstract);
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("sets");
    let hear = |what: &str| loop {
        let mut buffer = [0; 1024];
        let read = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("never `{what}`: {error}"));
        let said = String::from_utf8_lossy(&buffer[..read]);
        if said.contains(what) {
            return said.into_owned();
        }
    };
    let mut process = Process::spawn(
        command("serve")
            .env("NOTIFY_SOCKET", &name)
            .env("WATCHDOG_USEC", "300000")
            .envs(has_file.then_some(("STELLANE_CONFIG", &file))),
    );
    process.address();
    let ready = hear("READY=1");
    assert!(
        ready.contains(&format!("MAINPID={}", process.child.id())),
        "{ready}"
    );
    hear("WATCHDOG=1");
    process.signal("-HUP");
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    process.signal("-TERM");
    assert!(hear("STOPPING=1").contains("EXTEND_TIMEOUT_USEC=6000000"));
    assert_eq!(process.end().code(), Some(0));
    fs::remove_dir_all(&folder).expect("removes");
}

fn temporary(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stellane-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("creates");
    folder
}

#[test]
fn the_first_process_of_a_container_does_not_hand_over() {
    let unshare = [
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ];
    let may = Command::new("unshare").args(unshare).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no PID namespaces here");
        return;
    }
    let inner = command("serve");
    let mut outer = Command::new("unshare");
    outer
        .args(unshare)
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    outer
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::spawn(&mut outer);
    let address = process.address();
    // The child of `unshare`.
    let children = format!("/proc/{0}/task/{0}/children", process.child.id());
    let first = fs::read_to_string(children).expect("a child");
    let signal = |signal: &str| {
        let sent = Command::new("kill").args([signal, first.trim()]).status();
        assert!(sent.expect("there is a kill").success());
    };
    signal("-USR2");
    let refused = |line: String| line.contains("the container would end with this process");
    while !refused(
        process
            .errors
            .recv_timeout(Duration::from_secs(60))
            .expect("it is said"),
    ) {}
    let mut answer = [0; 12];
    ask(address, "/")
        .read_exact(&mut answer)
        .expect("serves on");
    assert_eq!(&answer, b"HTTP/1.1 200");
    // The system spares it from signals without a handler.
    signal("-TERM");
    assert_eq!(process.end().code(), Some(0));
}
