//! A whole run with ten secrets planted in it, read as an operator reads it: none of them is shown.
#![cfg(all(feature = "full", feature = "tls-ring", unix))]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use http::{Request, Response};
use stellane_core::{
    RequestBody, Runtime, RuntimeError,
    config::{Loader, RuntimeConfig},
    logging,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Where the run finds its files, and its format of the log.
const FOLDER: &str = "STELLANE_TEST_SECRETS";
const FORMAT: &str = "STELLANE_TEST_SECRETS_FORMAT";
/// Part of every secret; which one it is, its number says.
const PLANTED: &str = "hunter2";
const SECRETS: std::ops::RangeInclusive<u8> = 1..=12;
const PATIENCE: Duration = Duration::from_secs(60);

fn secret(number: u8) -> String {
    assert!(SECRETS.contains(&number));
    format!("{PLANTED}x{number:02}")
}

/// 1: a token. 2: the password of a URL in a value.
fn write_config(folder: &Path, format: &str, rest: &str) -> PathBuf {
    let file = folder.join("app.toml");
    let (token, password, folder) = (secret(1), secret(2), folder.display());
    let text = format!(
        "[server]\naddress = \"127.0.0.1:0\"\nadmin_address = \"127.0.0.1:0\"\nadmin_token = \"{token}{rest}\"\n\
         [http.security_headers]\ncontent_security_policy = \"report-uri https://u:{password}{rest}@a.example/\"\n\
         [log]\nformat = \"{format}\"\nredact = [\"license\"]\n\
         [connection.tls]\ncertificate = \"{folder}/server.pem\"\nkey = \"{folder}/server.key\"\nreload_interval = \"10ms\"\n"
    );
    fs::write(&file, text).expect("writes");
    file
}

/// In its own process, since there is one log for each.
#[test]
fn child() {
    let (Some(folder), Ok(format)) = (std::env::var_os(FOLDER), std::env::var(FORMAT)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    fs::write(folder.join("server.pem"), made.cert.pem()).expect("writes");
    fs::write(folder.join("server.key"), made.signing_key.serialize_pem()).expect("writes");
    let loader = Loader::from_process().file(write_config(&folder, &format, "old"));
    let config = loader.load().expect("valid");
    assert!(config.server.admin_token.contains(PLANTED), "it is there");
    let log = logging::init(&config.log).expect("the first");
    println!(
        "{config} {config:?} {config:#?} {:?} {loader:?}",
        config.server
    );
    println!("{:?}", config.connection.tls);

    say_what_is_wrong();
    let builder = Runtime::builder().config(config.clone()).log_handle(log);
    println!("{builder:?}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async move {
        let app = tower::service_fn(move |request: Request<RequestBody>| {
            let config = config.clone();
            async move { Ok::<_, std::convert::Infallible>(handle(&request, &config)) }
        });
        let served = builder.service(app).shutdown_signal(std::future::pending());
        let served = served.build().expect("builds");
        println!("{served:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        // Beside the address with TLS, one without.
        let mut bound = served.bind_configured().await.expect("binds");
        bound.listen_also(listener);
        println!("{bound:?}");
        let admin = bound.admin_addr().expect("on");
        tokio::spawn(bound.serve());
        use_it(address, admin, &folder, &format).await;
    });
    until_that_was_read();
}

/// 3: in a file that is no TOML. 4: in a variable of the environment. 5: in a URL where an address should be.
fn say_what_is_wrong() {
    let broken = format!("[server]\nadmin_token = {}\naddress = 7 7\n", secret(3));
    let variables = [
        ("STELLANE__DB_PASSWORD".to_owned(), secret(4)),
        (
            "STELLANE__SERVER__ADDRESS".to_owned(),
            format!("redis://:{}@h", secret(5)),
        ),
    ];
    for loader in [
        Loader::new().text("app.toml", broken),
        Loader::new().env(variables),
    ] {
        let errors = loader.load().expect_err("wrong");
        println!("{errors} {errors:?} {errors:#?}");
        tracing::error!("{errors}");
        let error = RuntimeError::from(errors);
        tracing::error!(?error, "{error}");
    }
}

/// 6: in the headers that a client sends. 7: under a name that looks secret. 8: in what a collector is told. 9: in a target.
fn handle(request: &Request<RequestBody>, config: &RuntimeConfig) -> Response<String> {
    let span = tracing::info_span!("request", target = %request.uri(), x_api_key = secret(7));
    let _entered = span.enter();
    tracing::info!(headers = ?request.headers(), "headers {:?}", request.headers());
    let otlp = format!("x-tenant=7,api-key={}", secret(8));
    tracing::warn!(
        otlp_headers = otlp,
        "exporter: {otlp}, authorization: Bearer {}",
        secret(8)
    );
    tracing::info!(licenseText = secret(7), "at {}", request.uri());
    if request.uri().path() == "/panic" {
        // 10: what is printed with a configuration.
        panic!("{config:?} password={} {:?}", secret(10), request.headers());
    }
    Response::new("hello".to_owned())
}

async fn use_it(address: SocketAddr, admin: SocketAddr, folder: &Path, format: &str) {
    for path in ["/", "/panic"] {
        let request = format!(
            "GET {path}?token={} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncookie: session={}\r\n\
             connection: close\r\n\r\n",
            secret(9),
            secret(6),
            secret(6)
        );
        println!("{}", ask(address, &request).await);
    }
    // A reload that changes secrets, and one that fails by one.
    let file = write_config(folder, format, "new");
    reload();
    fs::write(&file, format!("[server]\nadmin_token = {}\n", secret(11))).expect("writes");
    reload();
    // 12: a key of TLS that is being written.
    let half = format!("-----BEGIN PRIVATE KEY-----\n{}", secret(12));
    fs::write(folder.join("server.key"), half).expect("writes");
    for page in [
        "/config",
        "/runtime.json",
        "/metrics",
        "/connections",
        "/events",
        "/",
        "/tuning",
        "/readyz",
    ] {
        let request = format!("GET {page} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n");
        let answer = tokio::time::timeout(Duration::from_secs(1), ask(admin, &request));
        // Of what has no end, what is there: it is shut with the process.
        println!("{page}: {}", answer.await.unwrap_or_default());
    }
}

fn reload() {
    let id = std::process::id().to_string();
    let sent = Command::new("kill").args(["-HUP", &id]).status();
    assert!(sent.expect("runs").success());
    until_that_was_read();
}

/// Until the other process has seen what it waits for.
fn until_that_was_read() {
    std::io::stdin().read_exact(&mut [0]).expect("is told");
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    socket.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn of_ten_planted_secrets_none_is_in_logs_pages_errors_panics_or_debug_output() {
    for format in ["text", "json"] {
        let name = format!("stellane-secrets-run-{format}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("makes");
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, &folder)
            .env(FORMAT, format)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = child.stdin.take().expect("piped");
        let (lines, said) = std::sync::mpsc::channel();
        for output in [
            Box::new(child.stdout.take().expect("piped")) as Box<dyn Read + Send>,
            Box::new(child.stderr.take().expect("piped")),
        ] {
            let lines = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = lines.send(line);
                }
            });
        }
        drop(lines);
        // Each way by which one could have come out was taken.
        let mut awaited = vec![
            "headers {",
            "authorization: Bearer <redacted>",
            "api-key=<redacted>",
            "token=<redacted>",
            "password=<redacted>",
            "the old configuration stays",
            "needs a restart: ",
            "<redacted> -> <redacted>",
            "the old certificates stay",
            "panic",
            "ServerConfig {",
            "/config: HTTP/1.",
            "/readyz: HTTP/1.",
        ];
        let mut all = String::new();
        while !awaited.is_empty() {
            let line = said.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("{format}: never {awaited:?}: {all}"));
            for text in ["needs a restart: ", "the old configuration stays"] {
                if line.contains(text) && awaited.contains(&text) {
                    stdin.write_all(b"\n").expect("reads");
                }
            }
            awaited.retain(|text| !line.contains(text));
            all += &line;
            all.push('\n');
        }
        stdin.write_all(b"\n").expect("reads");
        all.extend(said.iter().map(|line| line + "\n"));
        assert!(child.wait().expect("ends").success(), "{all}");
        fs::remove_dir_all(&folder).expect("removes");
        for line in all.lines() {
            for number in SECRETS {
                assert!(
                    !line.contains(&secret(number)),
                    "{format}: {number}: {line}"
                );
            }
            assert!(!line.contains(PLANTED), "{format}: {line}");
        }
        assert!(all.contains("https://u:<redacted>@a.example"), "{all}");
    }
}
