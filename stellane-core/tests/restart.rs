//! A new process that does not become ready leaves no trace. That one which does loses nothing is tested under load, in
//! `examples/tests/restart.rs`.
#![cfg(all(unix, feature = "restart"))]

use std::time::Duration;

use stellane_core::{
    connection::Listener,
    restart::{Restart, RestartError},
};
use tokio::net::TcpListener;

async fn restart(script: &str) -> Restart {
    let listener: Listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds")
        .into();
    Restart::from_process()
        .expect("there is a program")
        .program("/bin/sh")
        .arguments(["-c", script])
        .with_listeners("http", [&listener])
        .expect("opens")
}

#[tokio::test]
async fn one_that_ends_is_reported_with_its_status() {
    let ended = restart("exit 7")
        .await
        .hand_over(Duration::from_secs(30))
        .await;
    let Err(RestartError::Ended(status)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(status.code(), Some(7));
}

#[tokio::test]
async fn one_that_is_late_is_ended_and_leaves_no_other_with_the_sockets() {
    let note = std::env::temp_dir().join(format!("stellane-late-{}", std::process::id()));
    // It has started another one, which would keep the sockets.
    let script = format!("sleep 60 & echo $! > {}; wait", note.display());
    let late = restart(&script)
        .await
        .hand_over(Duration::from_millis(500))
        .await;
    assert!(matches!(late, Err(RestartError::Late(_))), "{late:?}");
    let pid = std::fs::read_to_string(&note).expect("it has begun");
    std::fs::remove_file(&note).expect("removes");
    // Until it is reaped it is a zombie.
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    while cfg!(target_os = "linux") && state().is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn it_gets_the_sockets_and_their_names() {
    let script = r#"test -z "$LISTEN_PID" && test "$LISTEN_FDS" = 1 && test "$LISTEN_FDNAMES" = http \
        && test -S /dev/fd/3 && exit 0; exit 1"#;
    let ended = restart(script)
        .await
        .hand_over(Duration::from_secs(30))
        .await;
    let Err(RestartError::Ended(status)) = ended else {
        panic!("{ended:?}");
    };
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_program_that_is_not_there_ends_at_once() {
    let restart = restart("").await.program("/no/such/program");
    let ended = restart.hand_over(Duration::from_secs(30)).await;
    // No shell is in between that would say it in its own way.
    let Err(RestartError::Start(error)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn it_says_that_it_is_ready_through_a_pipe_that_nobody_else_can_find() {
    let script =
        r#"test -p "$STELLANE_READY_PIPE" && echo $$ > "$STELLANE_READY_PIPE"; exec sleep 60"#;
    let pid = restart(script)
        .await
        .hand_over(Duration::from_secs(30))
        .await
        .expect("takes over");
    let ended = std::process::Command::new("kill")
        .arg(pid.to_string())
        .status();
    assert!(ended.expect("there is a kill").success(), "it lives on");
}
