//! An example that serves, started as its users would.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A started program; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    /// With its first line.
    pub(crate) fn start(program: &str) -> (Self, String) {
        let mut child = Command::new(program)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut said).expect("it says where it is");
        let (_, rest) = said.split_once("://").expect("a URL");
        let address = rest.split('/').next().expect("a host").to_owned();
        (Self { child, address }, said)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("connects");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("is set");
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
