//! `stellane bench` against servers that are known exactly.
//!
//! `cargo test --release -p stellane-cli --test command -- --ignored --nocapture` checks the
//! measured percentiles against an injected latency distribution (20 s, wants an idle machine).

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A server with one thread for each connection; `answer` makes the whole response to the n-th request.
fn server(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, count) = (answer.clone(), count.clone());
            thread::spawn(move || serve(stream, &*answer, &count));
        }
    });
    address
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(usize) -> Vec<u8>, count: &AtomicUsize) {
    stream.set_nodelay(true).expect("nodelay");
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
        if line == "\r\n" {
            let response = answer(count.fetch_add(1, Ordering::Relaxed));
            if stream.write_all(&response).is_err() || response.windows(5).any(|w| w == b"close") {
                return;
            }
        }
        line.clear();
    }
}

fn bench(url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stellane"))
        .arg("bench")
        .arg(url)
        .args(arguments)
        .output()
        .expect("runs")
}

fn json(output: &Output) -> serde_json::Value {
    let text = str::from_utf8(&output.stdout).expect("text");
    serde_json::from_str(text)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn every_request_that_is_due_is_sent_once_and_counted() {
    let address = server(|n| match n % 4 {
        0 => OK.to_vec(),
        1 => b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec(),
        2 => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n"
            .to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end".to_vec(),
    });
    let output = bench(
        &format!("http://{address}/"),
        &["--rate", "400", "-d", "1s", "-c", "3", "--json"],
    );
    let result = json(&output);
    assert_eq!(
        result["statuses"],
        serde_json::json!({ "200": 300, "503": 100 }),
        "{result}"
    );
    assert_eq!(result["errors"], serde_json::json!({}), "{result}");
    assert_eq!(result["unsent"], 0);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
    // One connection; the first answer takes half a second, all others none.
    let address = server(|n| {
        if n == 0 {
            thread::sleep(Duration::from_millis(500));
        }
        OK.to_vec()
    });
    let result = json(&bench(
        &format!("http://{address}/"),
        &["-r", "200", "-d", "1s", "-c", "1", "--json"],
    ));
    let latency = |p: &str| result["latency_seconds"][p].as_f64().expect("a number");
    // 100 of the 200 requests were due during the stall, one waited for longer than the next. A
    // generator that waits for its own answers would have seen one slow request in two hundred.
    assert!(latency("p75") > 0.2, "{result}");
    assert!(latency("max") >= 0.5, "{result}");
}

#[test]
fn each_request_has_the_whole_timeout_and_a_late_one_is_counted_with_its_wait() {
    // The third is answered long after the timeout, all others well within, but later than a timer that
    // had started with the first.
    let address = server(|n| {
        thread::sleep(Duration::from_millis(if n == 2 { 5000 } else { 600 }));
        OK.to_vec()
    });
    let arguments = ["-c", "1", "-d", "1900ms", "--timeout", "1s", "--json"];
    let result = json(&bench(&format!("http://{address}/"), &arguments));
    assert_eq!(result["statuses"]["200"], 2, "{result}");
    assert_eq!(result["errors"]["timed out"], 1, "{result}");
    let longest = result["latency_seconds"]["max"].as_f64().expect("a number");
    assert!(longest >= 1.0, "{result}");
}

#[test]
fn a_closed_loop_and_its_svg() {
    let address = server(|_| OK.to_vec());
    let svg = std::env::temp_dir().join(format!("stellane-bench-{}.svg", std::process::id()));
    let path = svg.to_str().expect("text");
    let output = bench(
        &format!("http://{address}/a?b=<c>"),
        &["-d", "300ms", "-c", "2", "--svg", path],
    );
    let said = String::from_utf8(output.stdout).expect("text");
    // `<` is not allowed in a URL.
    assert_eq!((output.status.code(), said.as_str()), (Some(2), ""));

    // It shows as many nines as there are samples for: where the CPUs are short that takes longer.
    let mut picture = String::new();
    for duration in ["300ms", "3s", "20s"] {
        let output = bench(
            &format!("http://{address}/a?b=c&d"),
            &["-d", duration, "-c", "2", "--svg", path],
        );
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(
            said.contains("responses/s") && said.contains("p99.9"),
            "{said}"
        );
        picture = std::fs::read_to_string(&svg).expect("written");
        if picture.contains("p99.9") {
            break;
        }
    }
    assert!(
        picture.starts_with("<svg") && picture.contains("p99.9") && picture.contains("b=c&amp;d")
    );
    std::fs::remove_file(svg).expect("removes");
}

#[test]
fn bad_input_and_a_server_that_is_not_there_are_one_clear_error() {
    let refused = TcpListener::bind("127.0.0.1:0")
        .expect("binds")
        .local_addr()
        .expect("bound");
    for (url, arguments, status, message) in [
        ("https://localhost/", &[][..], 2, "https is not supported"),
        ("localhost:3000", &[], 2, "is not a URL"),
        ("http://", &[], 2, "is not a URL"),
        ("http://127.0.0.1/", &["-H", "broken"], 2, "is not a header"),
        ("http://127.0.0.1/", &["-X", "G T"], 2, "is not a method"),
        (
            "http://127.0.0.1/",
            &["-r", "0"],
            2,
            "expected requests per second",
        ),
        (
            "http://127.0.0.1/",
            &["-d", "ten"],
            2,
            "expected a duration",
        ),
        (
            &format!("http://{refused}/"),
            &["-d", "100ms"],
            1,
            "refused",
        ),
    ] {
        let output = bench(url, arguments);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(
            output.status.code(),
            Some(status),
            "{url} {arguments:?}: {said}"
        );
        assert!(
            said.contains(message) && !said.contains("panicked"),
            "{url} {arguments:?}: {said}"
        );
    }
}

#[test]
#[ignore = "20 s, and times: wants an idle machine"]
fn percentiles_are_those_of_the_injected_distribution() {
    const REQUESTS: usize = 20_000;
    // 15 ms and an exponential tail of mean 10 ms, each quantile once, in a shuffled order.
    let quantile = |q: f64| 0.015 - 0.010 * (1.0 - q).ln();
    let delay = move |n: usize| {
        let shuffled = n.wrapping_mul(7919) % REQUESTS;
        quantile((shuffled as f64 + 0.5) / REQUESTS as f64)
    };
    let address = server(move |n| {
        thread::sleep(Duration::from_secs_f64(delay(n)));
        OK.to_vec()
    });
    let arguments = ["--rate", "1000", "-d", "20s", "-c", "150", "--json"];
    let result = json(&bench(&format!("http://{address}/"), &arguments));
    assert_eq!(result["responses"], REQUESTS, "{result}");
    for (name, q) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let measured = result["latency_seconds"][name].as_f64().expect("a number");
        let error = measured / quantile(q) - 1.0;
        println!(
            "{name}: injected {:.3} ms, measured {:.3} ms, {:+.2} %",
            quantile(q) * 1e3,
            measured * 1e3,
            error * 100.0
        );
        assert!(error.abs() < 0.02, "{name}: {error}");
    }
}

#[test]
#[ignore = "20 s; needs wrk, and an idle machine"]
fn throughput_is_what_wrk_says() {
    // Each connection is answered after 5 ms, so that the clients and not the machine decide.
    let address = server(|_| {
        thread::sleep(Duration::from_millis(5));
        OK.to_vec()
    });
    let url = format!("http://{address}/");
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let wrk = Command::new("wrk")
            .args(["-t1", "-c50", "-d2s", &url])
            .output()
            .expect("wrk");
        let said = String::from_utf8_lossy(&wrk.stdout).into_owned();
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:"))
            .expect("a rate");
        let wrk: f64 = line.trim().parse().expect("a number");
        let result = json(&bench(&url, &["-t", "1", "-c", "50", "-d", "2s", "--json"]));
        let ours = result["responses_per_second"].as_f64().expect("a number");
        println!(
            "wrk {wrk:.0}/s, stellane bench {ours:.0}/s, ratio {:.3}",
            ours / wrk
        );
        ratios.push(ours / wrk);
    }
    ratios.sort_by(f64::total_cmp);
    assert!((ratios[2] - 1.0).abs() < 0.05, "{ratios:?}");
}
