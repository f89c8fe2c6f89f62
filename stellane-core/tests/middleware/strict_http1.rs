//! What comes through to a service, byte by byte: one table of requests that parties could read
//! differently, sent over real sockets to bare hyper, to the manager, to the manager with the layer, and to the preset,
//! which answers as the latter.
//!
//! The column for hyper is a canary: it says what hyper itself refuses, and fails when that changes.
#![cfg(all(feature = "connection", feature = "layers"))]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use stellane_core::connection::Incoming;
use stellane_core::{
    connection::{CloseReason, ConnectionConfig, ConnectionManager},
    strict_http1::{Http1Rules, StrictHttp1Layer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_layer::Layer;

use crate::looks::in_time;

/// The statuses of all answers on one connection, each after the other; `-` if it was closed without one.
struct Case {
    name: &'static str,
    bytes: String,
    hyper: &'static str,
    manager: &'static str,
    layer: &'static str,
}

fn case(
    name: &'static str,
    bytes: impl Into<String>,
    hyper: &'static str,
    manager: &'static str,
    layer: &'static str,
) -> Case {
    let bytes = bytes.into();
    Case {
        name,
        bytes,
        hyper,
        manager,
        layer,
    }
}

/// Behind each case comes this: had anything of the case stayed in the buffer, the answer would show it.
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fn cases() -> Vec<Case> {
    let with = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
    let post =
        |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}");
    let long = |n: usize| "a".repeat(n);
    vec![
        // Well-formed.
        case(
            "plain",
            with("Host: x\r\n"),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "HTTP/1.0 without Host",
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "absolute target",
            "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "absolute target, usual port",
            "GET http://X:80/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "absolute target without Host",
            "GET http://x/ HTTP/1.1\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "CONNECT without Host",
            "CONNECT x:443 HTTP/1.1\r\n\r\n",
            "200",
            "200",
            "200",
        ),
        case(
            "options of all",
            "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "length",
            post("Content-Length: 5\r\n", "a\nb\nc"),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "chunks",
            post(
                "Transfer-Encoding: chunked\r\n",
                "2;x=y\r\n\n\n\r\n1\r\nb\r\n0\r\nT: v\r\n\r\n",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "chunks in capitals",
            post("TRANSFER-ENCODING:  CHUNKED \r\n", "0\r\n\r\n"),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "empty line before",
            "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "IPv6",
            with("Host: [::1]:80\r\n"),
            "200 200",
            "200 200",
            "200 200",
        ),
        // Host.
        case("no Host", with(""), "200 200", "200 200", "400"),
        case(
            "two Hosts",
            with("Host: x\r\nHost: y\r\n"),
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "two equal Hosts",
            with("Host: x\r\nHost: x\r\n"),
            "200 200",
            "200 200",
            "400",
        ),
        case("empty Host", with("Host:\r\n"), "200 200", "200 200", "400"),
        case(
            "Host with path",
            with("Host: x/y\r\n"),
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "Host with user",
            with("Host: u@x\r\n"),
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "Host with space",
            with("Host: x y\r\n"),
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "Host with list",
            with("Host: x, y\r\n"),
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "Host with bad port",
            with("Host: x:99999\r\n"),
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "HTTP/1.0, two Hosts",
            "GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
            "200",
            "200",
            "400",
        ),
        case(
            "another authority",
            "GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "user in target",
            "GET http://u@x/ HTTP/1.1\r\nHost: u@x\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "space before colon",
            with("Host : x\r\n"),
            "400",
            "400",
            "400",
        ),
        // Two lengths.
        case(
            "length and chunks",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            "200",
            "400",
            "400",
        ),
        case(
            "chunks and length",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                "0\r\n\r\n",
            ),
            "200",
            "400",
            "400",
        ),
        case(
            "chunks and bad length",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: +5\r\n",
                "0\r\n\r\n",
            ),
            "200",
            "400",
            "400",
        ),
        case(
            "two lengths",
            post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        case(
            "two equal lengths",
            post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            "200 200",
            "400",
            "400",
        ),
        case(
            "list of lengths",
            post("Content-Length: 5, 5\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        case(
            "signed length",
            post("Content-Length: +5\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        case(
            "negative length",
            post("Content-Length: -5\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        case(
            "hexadecimal length",
            post("Content-Length: 0x5\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        case(
            "empty length",
            post("Content-Length:\r\n", ""),
            "400",
            "400",
            "400",
        ),
        case(
            "enormous length",
            post("Content-Length: 18446744073709551616\r\n", ""),
            "400",
            "400",
            "400",
        ),
        case(
            "length with a NUL",
            post("Content-Length: 5\0\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        case(
            "length with tabs and blanks",
            post(
                &format!(
                    "Content-Length:{}5{}\r\n",
                    "\t ".repeat(60),
                    " \t".repeat(60)
                ),
                "hello",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "length of many zeros",
            post(
                &format!("Content-Length: {}5\r\n", "0".repeat(300)),
                "hello",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "length without a blank",
            post("Content-Length:5\r\n", "hello"),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "length with a blank within",
            post("Content-Length: 1 0\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        case(
            "length with an underscore",
            post("Content-Length: 1_0\r\n", "hello"),
            "400",
            "400",
            "400",
        ),
        // Transfer-Encoding.
        case(
            "unknown encoding",
            post("Transfer-Encoding: gzip\r\n", ""),
            "400",
            "501",
            "501",
        ),
        case(
            "gzip, chunked",
            post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            "200 200",
            "501",
            "501",
        ),
        case(
            "chunked, gzip",
            post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "chunked twice",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            "200 200",
            "400",
            "400",
        ),
        case(
            "identity, then chunked",
            post(
                "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            "200 200",
            "501",
            "501",
        ),
        case(
            "encoding with vertical tab",
            post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "encoding with many blanks",
            post(
                &format!("Transfer-Encoding:{}chunked\r\n", " ".repeat(200)),
                "0\r\n\r\n",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "another encoding, then chunked in one line",
            post("Transfer-Encoding: x-y;q=\"1\" , chunked\r\n", "0\r\n\r\n"),
            "200 200",
            "501",
            "501",
        ),
        case(
            "chunked with a parameter",
            post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "empty encoding",
            post("Transfer-Encoding:\r\n", ""),
            "400",
            "400",
            "400",
        ),
        case(
            "empty encoding, then chunked",
            post("Transfer-Encoding: , chunked\r\n", "0\r\n\r\n"),
            "200 200",
            "400",
            "400",
        ),
        case(
            "quoted encoding",
            post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "length and unknown encoding",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n",
                "0\r\n\r\n",
            ),
            "200",
            "400",
            "400",
        ),
        case(
            "unknown encoding behind another request",
            format!(
                "{}{}",
                post("Content-Length: 2\r\n", "ab"),
                post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")
            ),
            "200 200 200",
            "200 501",
            "200 501",
        ),
        case(
            "encoding with space before colon",
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "encoding behind a tab",
            post("\tTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "HTTP/1.0 with chunks",
            "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        // Lines.
        case(
            "bare LF after the request line",
            "GET / HTTP/1.1\nHost: x\r\n\r\n",
            "200 200",
            "400",
            "400",
        ),
        case(
            "bare LF after a field",
            with("Host: x\nA: b\r\n"),
            "200 200",
            "400",
            "400",
        ),
        case(
            "bare LF at the end",
            "GET / HTTP/1.1\r\nHost: x\r\n\n",
            "200 200",
            "400",
            "400",
        ),
        case(
            "bare LFs everywhere",
            "GET / HTTP/1.1\nHost: x\n\n",
            "200 200",
            "400",
            "400",
        ),
        case(
            "bare LF before",
            "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "400",
            "400",
        ),
        case(
            "bare CR in a value",
            with("Host: x\r\nA: b\rc\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "CR CR LF",
            with("Host: x\r\nA: b\r\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "folded line",
            with("Host: x\r\nA: b\r\n c\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "folded with a tab",
            with("Host: x\r\nA: b\r\n\tc\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "space before the first field",
            with(" A: b\r\nHost: x\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "field without colon",
            with("Host: x\r\nA\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "field without name",
            with("Host: x\r\n: b\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "NUL in a value",
            with("Host: x\r\nA: b\0c\r\n"),
            "400",
            "400",
            "400",
        ),
        case(
            "smuggled by a bare LF in a value",
            post("A: b\nContent-Length: 5\r\n", "hello"),
            "200 200",
            "400",
            "400",
        ),
        // Request line.
        case(
            "no version",
            "GET /\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "HTTP/1.2",
            "GET / HTTP/1.2\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "two spaces",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "tab",
            "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "method with colon",
            "GET: / HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "fragment in target",
            "GET /#x HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "get of all",
            "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "head of all",
            "HEAD * HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "authority as a target",
            "GET x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "raw bytes in a target",
            "GET /café?é HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "absolute target, another port",
            "GET http://x:443/ HTTP/1.1\r\nHost: x:80\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "absolute target, port of another scheme",
            "GET https://x/ HTTP/1.1\r\nHost: x:80\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "absolute target, port in zeros",
            "GET http://x:080/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "absolute target, secure",
            "GET https://x/ HTTP/1.1\r\nHost: x:443\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "absolute target, empty Host",
            "GET http://x/ HTTP/1.1\r\nHost:\r\n\r\n",
            "200 200",
            "200 200",
            "400",
        ),
        case(
            "CONNECT to a path",
            "CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n",
            "200",
            "200",
            "400",
        ),
        case(
            "CONNECT without a port",
            "CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n",
            "200",
            "200",
            "400",
        ),
        case(
            "CONNECT with a user",
            "CONNECT u@x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
            "200",
            "200",
            "400",
        ),
        case(
            "CONNECT to another host",
            "CONNECT y:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
            "200",
            "200",
            "400",
        ),
        case(
            "CONNECT",
            "CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
            "200",
            "200",
            "200",
        ),
        case(
            "two spaces before the version",
            "GET /  HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "bare CR in the request line",
            "GET /a\rb HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "control in the target",
            "GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "HTTP/2.0",
            "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
            "400",
            "400",
            "400",
        ),
        case(
            "empty lines before",
            "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "200 200",
            "200 200",
            "200 200",
        ),
        // Chunks, where hyper closes without an answer once the handler has begun to read.
        case(
            "chunk size with LF",
            post("Transfer-Encoding: chunked\r\n", "1\na\r\n0\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "chunk without CR LF",
            post("Transfer-Encoding: chunked\r\n", "1\r\nab\r\n0\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "chunk extension with LF",
            post("Transfer-Encoding: chunked\r\n", "1;a\nb\r\na\r\n0\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "chunk size with prefix",
            post("Transfer-Encoding: chunked\r\n", "0x1\r\na\r\n0\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "chunk size too large",
            post(
                "Transfer-Encoding: chunked\r\n",
                "10000000000000000\r\na\r\n0\r\n\r\n",
            ),
            "500",
            "500",
            "500",
        ),
        case(
            "chunk extension without a name",
            post("Transfer-Encoding: chunked\r\n", "5;\r\nhello\r\n0\r\n\r\n"),
            "200 200",
            "500",
            "500",
        ),
        case(
            "blank behind a chunk size",
            post("Transfer-Encoding: chunked\r\n", "5 \r\nhello\r\n0\r\n\r\n"),
            "200 200",
            "500",
            "500",
        ),
        case(
            "tab behind a chunk size",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5\t\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "control in a chunk extension",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a\x01b\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "chunk extension with blanks within",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a b\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "chunk extension without its value",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a=\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "chunk extension that goes on behind its quotes",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a=\"b\"c\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "chunk extension whose quotes stay open",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a=\"b\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "NUL in a chunk extension",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a=\"\0\"\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "bare CR in a chunk extension",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a\rb\r\nhello\r\n0\r\n\r\n",
            ),
            "500",
            "500",
            "500",
        ),
        case(
            "signed chunk size",
            post("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "negative chunk size",
            post("Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "chunk size with underscore",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5_0\r\nhello\r\n0\r\n\r\n",
            ),
            "500",
            "500",
            "500",
        ),
        case(
            "blank before a chunk size",
            post("Transfer-Encoding: chunked\r\n", " 5\r\nhello\r\n0\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "empty chunk size",
            post(
                "Transfer-Encoding: chunked\r\n",
                ";a=b\r\nhello\r\n0\r\n\r\n",
            ),
            "500",
            "500",
            "500",
        ),
        case(
            "chunk extensions",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a;b=c\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "chunk extensions with blanks",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5 ;\ta = b ; c\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "quoted chunk extension",
            post(
                "Transfer-Encoding: chunked\r\n",
                "5;a=\"b;\\\" c\"\r\nhello\r\n0\r\n\r\n",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "extension of the last chunk",
            post("Transfer-Encoding: chunked\r\n", "0;a=b\r\n\r\n"),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "empty extension of the last chunk",
            post("Transfer-Encoding: chunked\r\n", "0;\r\n\r\n"),
            "200 200",
            "500",
            "500",
        ),
        case(
            "length in a trailer",
            post(
                "Transfer-Encoding: chunked\r\n",
                "0\r\nContent-Length: 5\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "encoding in a trailer",
            post(
                "Transfer-Encoding: chunked\r\n",
                "0\r\nA: b\r\ntransfer-encoding: chunked\r\n\r\n",
            ),
            "200 200",
            "500",
            "500",
        ),
        case(
            "host in a trailer",
            post("Transfer-Encoding: chunked\r\n", "0\r\nHost: y\r\n\r\n"),
            "200 200",
            "500",
            "500",
        ),
        case(
            "space before the colon in a trailer",
            post("Transfer-Encoding: chunked\r\n", "0\r\nA : b\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        case(
            "other fields in a trailer",
            post(
                "Transfer-Encoding: chunked\r\n",
                "0\r\nHost-Id: y\r\nContent-MD5: z\r\n\r\n",
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "chunk size of many zeros",
            post(
                "Transfer-Encoding: chunked\r\n",
                format!("{}1\r\na\r\n0\r\n\r\n", "0".repeat(80)).as_str(),
            ),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "trailer with LF",
            post("Transfer-Encoding: chunked\r\n", "0\r\nA: b\nC: d\r\n\r\n"),
            "500",
            "500",
            "500",
        ),
        // Sizes.
        case(
            "long target",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(8191)),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "longer target",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(60_000)),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "longest target",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(65_534)),
            "414",
            "431",
            "431",
        ),
        case(
            "many fields",
            with(&("Host: x\r\n".to_owned() + &"A: b\r\n".repeat(99))),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "too many fields",
            with(&("Host: x\r\n".to_owned() + &"A: b\r\n".repeat(100))),
            "431",
            "431",
            "431",
        ),
        case(
            "large field",
            with(&format!("Host: x\r\nA: {}\r\n", long(60_000))),
            "200 200",
            "200 200",
            "200 200",
        ),
        case(
            "too large field",
            with(&format!("Host: x\r\nA: {}\r\n", long(70_000))),
            "200 200",
            "431",
            "431",
        ),
    ]
}

type Seen = Arc<Mutex<Vec<String>>>;

/// Reads the body to its end, since only then its framing has been followed.
async fn handler<B: Body>(
    seen: Seen,
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.uri().to_string();
    let status = match request.into_body().collect().await {
        Ok(_) => 200,
        Err(_) => 500,
    };
    seen.lock().expect("not poisoned").push(target);
    let mut response = Response::new(Full::default());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    Ok(response)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

async fn serve_hyper() -> (SocketAddr, Seen) {
    let (listener, address) = listen().await;
    let seen = Seen::default();
    tokio::spawn({
        let seen = seen.clone();
        async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                let seen = seen.clone();
                let service = hyper::service::service_fn(move |request: Request<_>| {
                    handler(seen.clone(), request.map(Incoming::from))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        }
    });
    (address, seen)
}

async fn serve_manager(rules: Option<&Http1Rules>) -> (SocketAddr, Seen, ConnectionManager) {
    let (listener, address) = listen().await;
    let seen = Seen::default();
    let service = {
        let seen = seen.clone();
        tower::service_fn(move |request| handler(seen.clone(), request))
    };
    let manager = ConnectionManager::builder().build().expect("valid");
    match rules {
        Some(rules) => {
            let service = StrictHttp1Layer::new(rules).layer(service);
            tokio::spawn(manager.serve(listener, service));
        }
        None => {
            tokio::spawn(manager.serve(listener, service));
        }
    }
    (address, seen, manager)
}

/// The preset, which ends with what it gives back.
#[cfg(feature = "full")]
async fn serve_preset() -> (SocketAddr, Seen) {
    use stellane_core::{RequestBody, Runtime, RuntimeConfig};

    let seen = Seen::default();
    let service = {
        let seen = seen.clone();
        tower::service_fn(move |request: Request<RequestBody>| handler(seen.clone(), request))
    };
    let mut config = RuntimeConfig::default();
    config.server.admin_address.clear();
    let runtime = Runtime::builder().config(config).service(service);
    let runtime = runtime.build().expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    (address, seen)
}

#[cfg(not(feature = "full"))]
async fn serve_preset() -> (SocketAddr, Seen) {
    let (address, seen, _) = serve_manager(Some(&Http1Rules::default())).await;
    (address, seen)
}

/// Sends all of it in pieces of `piece` bytes; the statuses of the answers, and whether the last says close.
async fn send(address: SocketAddr, bytes: &str, piece: usize) -> (String, bool) {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut read, mut write) = stream.into_split();
    let bytes = bytes.to_owned() + NEXT;
    let writing = tokio::spawn(async move {
        for piece in bytes.as_bytes().chunks(piece) {
            // The server may have closed already.
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Kept open: the server decides when it ends.
        write
    });
    let mut answer = Vec::new();
    // A reset after the answer is the end of it as well.
    let end = read.read_to_end(&mut answer);
    if in_time(end).await.is_none() {
        return (
            format!("hangs after {:?}", String::from_utf8_lossy(&answer)),
            false,
        );
    }
    writing.await.expect("writes");
    let answer = String::from_utf8_lossy(&answer);
    let statuses: Vec<_> = answer
        .match_indices("HTTP/1.")
        .map(|(at, _)| answer[at + 9..at + 12].to_owned())
        .collect();
    let close = answer
        .rfind("HTTP/1.")
        .is_some_and(|last| answer[last..].contains("connection: close"));
    let statuses = if statuses.is_empty() {
        "-".to_owned()
    } else {
        statuses.join(" ")
    };
    (statuses, close)
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let rules = Http1Rules::default();
    let (hyper, _) = serve_hyper().await;
    let (manager, _, _) = serve_manager(None).await;
    let (layer, seen, strict) = serve_manager(Some(&rules)).await;
    let (preset, seen_by_preset) = serve_preset().await;
    let mut wrong = Vec::new();
    for case in cases() {
        // Whole, and in pieces that end within every line.
        for piece in [usize::MAX, 7, 1] {
            if piece < 8 && case.bytes.len() > 1000 {
                continue;
            }
            for (server, address, expected) in [
                ("hyper", hyper, case.hyper),
                ("manager", manager, case.manager),
                ("layer", layer, case.layer),
                ("preset", preset, case.layer),
            ] {
                seen.lock().expect("not poisoned").clear();
                seen_by_preset.lock().expect("not poisoned").clear();
                let (statuses, close) = send(address, &case.bytes, piece).await;
                if statuses != expected {
                    wrong.push(format!(
                        "{server}, pieces of {piece}, {}: {statuses}, expected {expected}",
                        case.name
                    ));
                }
                let refused = statuses.starts_with('4') || statuses.starts_with("501");
                if refused && !close {
                    wrong.push(format!("{server}, {}: no connection: close", case.name));
                }
                for (guarded, seen) in [("layer", &seen), ("preset", &seen_by_preset)] {
                    let reached = !seen.lock().expect("not poisoned").is_empty();
                    if server == guarded && refused && reached {
                        wrong.push(format!("{server}: {}: reached the service", case.name));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rules.stats().refused_total() > 0);
    assert!(strict.stats().closed(CloseReason::ProtocolError) > 0);
}

#[tokio::test]
async fn what_follows_a_declined_upgrade_is_not_taken_for_a_request_unseen() {
    let (address, _, _) = serve_manager(None).await;
    let upgrade = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    // In one segment with it, and before the handler has declined.
    for size in [1, 7, usize::MAX] {
        let (statuses, close) = send(address, upgrade, size).await;
        assert_eq!((statuses.as_str(), close), ("200 200", true));
        let bare = [upgrade, "GET / HTTP/1.1\nhost: x\r\n\r\n"].concat();
        let (statuses, _) = send(address, &bare, size).await;
        assert_eq!(statuses, "200 400");
    }

    // After it.
    for (next, expected) in [(NEXT, "200"), ("GET / HTTP/1.1\nhost: x\r\n\r\n", "400")] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let mut answer = [0; 512];
        stream.write_all(upgrade.as_bytes()).await.expect("writes");
        let n = stream.read(&mut answer).await.expect("reads");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
        stream.write_all(next.as_bytes()).await.expect("writes");
        let n = stream.read(&mut answer).await.expect("reads");
        assert_eq!(&answer[9..12], expected.as_bytes(), "{n}");
    }
}

#[tokio::test]
async fn left_to_hyper_the_manager_repairs_as_hyper_does() {
    let mut config = ConnectionConfig::default();
    config.strict_http1 = false;
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");
    let (listener, address) = listen().await;
    let service = tower::service_fn(|request| handler(Seen::default(), request));
    tokio::spawn(manager.serve(listener, service));
    for case in cases().iter().filter(|case| case.bytes.len() < 1000) {
        let (statuses, _) = send(address, &case.bytes, usize::MAX).await;
        assert_eq!(statuses, case.hyper, "{}", case.name);
    }
}

#[test]
fn the_layer_alone_sees_what_is_left_of_a_request() {
    use stellane_core::strict_http1::{StrictHttp1Config, Violation};

    let mut strict = StrictHttp1Config::default();
    strict.allow_non_ascii_target = false;
    let strict = Http1Rules::builder().config(strict).build().expect("valid");
    let rules = Http1Rules::default();
    let raw = "/caf\u{e9}?\u{e9}";
    let encoded: &[&[&str]] = &[
        &["chunked"],
        &["gzip, chunked"],
        &["gzip", "chunked"],
        &["chunked", "chunked"],
    ];
    let [chunked, unknown, two_lines, twice] = encoded else {
        panic!("four");
    };
    for (rules, method, target, codings, expected) in [
        (&rules, "GET", "/", &[][..], Ok(())),
        (&rules, "GET", raw, &[], Ok(())),
        (&strict, "GET", raw, &[], Err(Violation::TargetNotAscii)),
        (&strict, "GET", "/caf%C3%A9", &[], Ok(())),
        (&rules, "OPTIONS", "*", &[], Ok(())),
        (&rules, "GET", "*", &[], Err(Violation::TargetForm)),
        (&rules, "CONNECT", "*", &[], Err(Violation::TargetForm)),
        (&rules, "GET", "x:80", &[], Err(Violation::TargetForm)),
        (&rules, "CONNECT", "x:80", &[], Ok(())),
        (&rules, "CONNECT", "x", &[], Err(Violation::TargetForm)),
        (
            &rules,
            "CONNECT",
            "http://x:80/",
            &[],
            Err(Violation::TargetForm),
        ),
        (&rules, "POST", "/", chunked, Ok(())),
        (
            &rules,
            "POST",
            "/",
            unknown,
            Err(Violation::EncodingUnknown),
        ),
        (
            &rules,
            "POST",
            "/",
            two_lines,
            Err(Violation::EncodingUnknown),
        ),
        (&rules, "POST", "/", twice, Err(Violation::EncodingInvalid)),
    ] {
        let target = http::Uri::from_maybe_shared(Bytes::from(target)).expect("a target");
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "x");
        for coding in codings {
            request = request.header("transfer-encoding", *coding);
        }
        let request = request.body(()).expect("a request");
        assert_eq!(rules.check(&request), expected, "{request:?}");
    }
    assert_eq!(Violation::EncodingUnknown.status(), 501);
}
