//! nginx, for its idle memory: what servers in C need.

use std::{fs, net::TcpListener};

use crate::{
    BoxError,
    contestants::{Contestant, Scope, home},
    machine::output,
    server::Launch,
};

pub(crate) fn contestant() -> Contestant {
    let version = output("nginx", &["-v"]);
    match launch() {
        Ok(launch) if version.starts_with("nginx version") => Contestant {
            scope: Scope::Idle,
            ..Contestant::present("nginx", version.rsplit('/').next().unwrap_or("?"), launch)
        },
        Ok(_) => Contestant::missing("nginx", "it is not installed"),
        Err(error) => Contestant::missing("nginx", error),
    }
}

fn launch() -> Result<Launch, BoxError> {
    let folder = home().join("target/compare/nginx");
    fs::create_dir_all(&folder)?;
    // It can't say which port it was given.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let configuration = format!(
        "worker_processes 1;
daemon off;
error_log /dev/null;
pid {folder}/pid;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address} backlog=4096;
        location = /hello {{ default_type text/plain; return 200 \"Hello, world!\"; }}
    }}
}}
",
        folder = folder.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    Ok(Launch {
        program: "nginx".into(),
        arguments: vec![
            "-p".to_owned(),
            folder.to_string_lossy().into_owned(),
            "-c".to_owned(),
            file.to_string_lossy().into_owned(),
        ],
        environment: Vec::new(),
        address: Some(address),
    })
}
