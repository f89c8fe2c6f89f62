//! In a process of its own: a signal handler stays for good.
#![cfg(all(unix, feature = "full"))]

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use stellane_core::{RequestBody, Runtime, RuntimeConfig};

#[tokio::test]
async fn a_restart_asked_for_before_the_service_serves_does_not_end_the_process() {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    let hello = tower::service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let runtime = Runtime::builder().config(config).service(hello).build();
    let runtime = runtime.expect("builds");
    let own = std::process::id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-USR2", &own])
        .status();
    assert!(sent.expect("there is a kill").success());
    // Without a handler the process would be gone before this ends.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(runtime);
}
