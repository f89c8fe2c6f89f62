//! SIGHUP reloads the configuration. In a process of its own: the signal goes to all of it.
#![cfg(all(feature = "reload", unix))]

#[path = "support/looks.rs"]
mod looks;

use std::{fs, process::Command};

use looks::holds_soon;
use stellane_core::config::{ConfigWatcher, Loader};

#[tokio::test]
async fn sighup_reloads_even_what_a_look_at_the_file_would_not_show() {
    let file = std::env::temp_dir().join(format!("stellane-sighup-{}.toml", std::process::id()));
    fs::write(&file, "[log]\nlevel = \"info\"\n").expect("writes");
    let watcher = ConfigWatcher::new(Loader::new().file(&file)).expect("valid");
    tokio::spawn(watcher.clone().run(|_| {}));
    // The task runs up to its first wait, and with it installs the handler.
    tokio::task::yield_now().await;

    let pid = std::process::id().to_string();
    let sent = Command::new("kill")
        .args(["-HUP", &pid])
        .status()
        .expect("kill");
    assert!(sent.success());
    let reloaded = holds_soon(async || watcher.stats().reloads_total > 0);
    assert!(reloaded.await, "never reloaded");
    fs::remove_file(file).expect("removes");
}
