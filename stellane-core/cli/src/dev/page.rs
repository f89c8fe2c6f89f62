//! What answers while there is no service: a page with the compiler's errors.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use stellane_core::hot_reload::{LIVE_PATH, SCRIPT};

const PATIENCE: Duration = Duration::from_secs(2);
const MAX_HEAD: usize = 64 << 10;

/// What the page says.
#[derive(Debug, Clone)]
pub(super) struct Content {
    title: String,
    text: String,
    status: &'static str,
}

impl Content {
    pub(super) fn building() -> Self {
        Self {
            title: "Building".to_owned(),
            text: "This page loads again when the service is ready.".to_owned(),
            status: "503 Service Unavailable",
        }
    }

    pub(super) fn errors(title: &str, text: &str) -> Self {
        Self {
            title: title.to_owned(),
            text: text.to_owned(),
            status: "500 Internal Server Error",
        }
    }
}

/// Answers on the listening socket while it is shown, and leaves the socket alone while it is hidden.
#[derive(Debug)]
pub(super) struct Page {
    listener: Arc<TcpListener>,
    content: Arc<Mutex<Option<Content>>>,
    generation: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Page {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener: Arc::new(listener),
            content: Arc::default(),
            generation: Arc::default(),
            thread: None,
        }
    }

    pub(super) fn show(&mut self, content: Content) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        *lock(&self.content) = Some(content);
        if self.thread.is_none() {
            let (listener, content, generation) = (
                self.listener.clone(),
                self.content.clone(),
                self.generation.clone(),
            );
            self.thread = Some(thread::spawn(move || {
                accept(&listener, &content, &generation)
            }));
        }
    }

    /// Once this returns, new connections wait for the service.
    pub(super) fn hide(&mut self) {
        *lock(&self.content) = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(content: &Mutex<Option<Content>>) -> std::sync::MutexGuard<'_, Option<Content>> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, content: &Mutex<Option<Content>>, generation: &AtomicU64) {
    // The flag is shared with the service's copy of the socket, which wants it too.
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    loop {
        let Some(content) = lock(content).clone() else {
            return;
        };
        match listener.accept() {
            Ok((stream, _)) => {
                let id = format!(
                    "stellane-dev-{}-{}",
                    std::process::id(),
                    generation.load(Ordering::Relaxed)
                );
                // A client that goes away is nobody's loss.
                thread::spawn(move || answer(stream, &content, &id));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn answer(mut stream: TcpStream, content: &Content, id: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let path = head.split_whitespace().nth(1).unwrap_or_default();
    let wants_page = head
        .lines()
        .any(|line| line.starts_with("accept:") && line.contains("text/html"));
    let (status, kind, body) = if path == LIVE_PATH {
        ("200 OK", "text/plain", id.to_owned())
    } else if wants_page {
        (content.status, "text/html", html(content))
    } else {
        (
            content.status,
            "text/plain",
            format!("{}\n\n{}\n", content.title, plain(&content.text)),
        )
    };
    let body = if head.starts_with("head ") { "" } else { &body };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    // Closing with unread data would reset the connection and lose the response.
    stream.shutdown(Shutdown::Write)?;
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn html(content: &Content) -> String {
    let title = escape(&content.title);
    let mut text = String::new();
    for (style, part) in styled(&content.text) {
        let part = escape(part);
        match style {
            "" => text.push_str(&part),
            style => text.push_str(&format!("<span style=\"{style}\">{part}</span>")),
        }
    }
    format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title><style>body{{margin:2rem;background:#16181d;\
         color:#dde;font:15px/1.5 sans-serif}}pre{{font:13px/1.45 monospace;overflow-x:auto}}h1{{font-size:\
         1.3rem;color:#ff7b72}}</style><h1>{title}</h1><pre>{text}</pre>{SCRIPT}"
    )
}

fn plain(text: &str) -> String {
    styled(text).map(|(_, part)| part).collect()
}

/// The parts of a text with terminal colours, each with its CSS.
fn styled(text: &str) -> impl Iterator<Item = (&'static str, &str)> {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().map(|part| ("", part));
    first
        .into_iter()
        .chain(parts.map(|part| match part.split_once('m') {
            Some((codes, part)) => (css(codes), part),
            None => ("", part),
        }))
}

fn css(codes: &str) -> &'static str {
    // Only what rustc uses; `38;5;9` is its bright red and so on.
    match codes.rsplit(';').next() {
        Some("9" | "31" | "91") => "color:#ff7b72;font-weight:bold",
        Some("11" | "33" | "93") => "color:#e3b341;font-weight:bold",
        Some("10" | "32" | "92") => "color:#7ee787",
        Some("12" | "14" | "34" | "36" | "94" | "96") => "color:#79c0ff",
        Some("1") => "font-weight:bold",
        _ => "",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colours_of_the_compiler_become_css_or_nothing_and_text_is_escaped() {
        let text = "\u{1b}[1m\u{1b}[38;5;9merror\u{1b}[0m: Vec<&str>";
        assert_eq!(plain(text), "error: Vec<&str>");
        let page = html(&Content::errors("Broken & <bad>", text));
        assert!(page.contains("<h1>Broken &amp; &lt;bad&gt;</h1>"), "{page}");
        assert!(
            page.contains("font-weight:bold\">error</span>: Vec&lt;&amp;str&gt;"),
            "{page}"
        );
    }
}
