//! The configuration follows its file; an invalid file changes nothing.
#![cfg(feature = "reload")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use stellane_core::config::{ConfigErrors, ConfigWatcher, Loader, REFERENCE, Reload, live_keys};
use tokio::sync::mpsc;

use crate::looks::in_time;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("stellane-reload-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("folder");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Watch {
    watcher: ConfigWatcher,
    outcomes: mpsc::UnboundedReceiver<Result<Reload, ConfigErrors>>,
}

impl Watch {
    fn start(file: &Path) -> Self {
        let watcher = ConfigWatcher::new(Loader::new().file(file)).expect("valid");
        let (sender, outcomes) = mpsc::unbounded_channel();
        tokio::spawn(watcher.clone().run(move |outcome| {
            let _ = sender.send(outcome.clone());
        }));
        Self { watcher, outcomes }
    }

    async fn outcome(&mut self) -> Result<Reload, ConfigErrors> {
        let outcome = in_time(self.outcomes.recv());
        outcome.await.expect("a reload in time").expect("running")
    }
}

const OLD: &str = "[log]\nlevel = \"info\"\n";
const NEW: &str = "[log]\nlevel = \"debug\"\n";

#[tokio::test]
async fn an_edit_in_place_is_applied() {
    let folder = Folder::new("in-place");
    let file = folder.file("app.toml", OLD);
    let mut watch = Watch::start(&file);
    let mut configs = watch.watcher.subscribe();
    fs::write(&file, NEW).expect("write");
    let reload = watch.outcome().await.expect("valid");
    assert_eq!(
        reload.to_string(),
        "applied: `log.level` \"info\" -> \"debug\""
    );
    assert_eq!(watch.watcher.config().log.level, "debug");
    assert!(configs.has_changed().expect("open"));
    assert_eq!(configs.borrow_and_update().log.level, "debug");
}

#[tokio::test]
async fn an_atomic_rename_is_applied() {
    let folder = Folder::new("rename");
    let file = folder.file("app.toml", OLD);
    let mut watch = Watch::start(&file);
    fs::rename(folder.file("app.toml.new", NEW), &file).expect("rename");
    watch.outcome().await.expect("valid");
    assert_eq!(watch.watcher.config().log.level, "debug");
}

#[cfg(unix)]
#[tokio::test]
async fn a_swapped_symlink_to_a_folder_is_applied_as_in_a_kubernetes_config_map() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new("symlink");
    for (name, text) in [("1", OLD), ("2", NEW)] {
        fs::create_dir(folder.0.join(name)).expect("folder");
        folder.file(&format!("{name}/app.toml"), text);
    }
    symlink("1", folder.0.join("..data")).expect("link");
    symlink("..data/app.toml", folder.0.join("app.toml")).expect("link");
    let mut watch = Watch::start(&folder.0.join("app.toml"));
    symlink("2", folder.0.join("..data_tmp")).expect("link");
    fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).expect("swap");
    watch.outcome().await.expect("valid");
    assert_eq!(watch.watcher.config().log.level, "debug");
}

#[tokio::test]
async fn an_invalid_file_changes_nothing_and_says_why_and_a_fixed_one_is_applied() {
    let folder = Folder::new("invalid");
    let file = folder.file("app.toml", OLD);
    let mut watch = Watch::start(&file);
    fs::write(&file, "[log]\nlevel = \"trace\"\nlevle = 1\n").expect("write");
    let errors = watch.outcome().await.expect_err("invalid").to_string();
    assert!(
        errors.contains("app.toml:3: `log.levle`: unknown key; did you mean `level`?"),
        "{errors}"
    );
    assert_eq!(watch.watcher.config().log.level, "info");
    let stats = watch.watcher.stats();
    assert_eq!((stats.reloads_total, stats.failures_total), (0, 1));
    assert_eq!(stats.last_error.as_deref(), Some(errors.as_str()));

    fs::write(&file, NEW).expect("write");
    watch.outcome().await.expect("valid");
    assert_eq!(watch.watcher.config().log.level, "debug");
    assert_eq!(watch.watcher.stats().last_error, None);
}

#[tokio::test]
async fn a_removed_file_changes_nothing_and_is_named() {
    let folder = Folder::new("removed");
    let file = folder.file("app.toml", NEW);
    let mut watch = Watch::start(&file);
    fs::remove_file(&file).expect("remove");
    let errors = watch.outcome().await.expect_err("missing").to_string();
    assert!(errors.contains("can't be read"), "{errors}");
    assert_eq!(watch.watcher.config().log.level, "debug");
}

#[cfg(feature = "preset")]
#[test]
fn a_change_of_the_memory_budget_is_told_to_need_a_restart() {
    let folder = Folder::new("memory");
    let file = folder.file("app.toml", "[memory]\nbudget = \"off\"\n");
    let watcher = ConfigWatcher::new(Loader::new().file(&file)).expect("valid");
    fs::write(&file, "[memory]\nbudget = \"512MiB\"\n").expect("write");
    let reload = watcher.reload().expect("valid");
    assert!(reload.applied.is_empty());
    assert_eq!(
        reload.restart_required[0].to_string(),
        "`memory.budget` \"off\" -> \"536870912\""
    );
}

#[test]
fn what_needs_a_restart_is_listed_not_applied_and_listed_again() {
    let folder = Folder::new("restart");
    let file = folder.file("app.toml", OLD);
    let watcher = ConfigWatcher::new(Loader::new().file(&file)).expect("valid");
    fs::write(
        &file,
        "[server]\naddress = \"127.0.0.1:4000\"\n[log]\nlevel = \"debug\"\n",
    )
    .expect("write");
    let reload = watcher.reload().expect("valid");
    assert_eq!(reload.applied.len(), 1);
    assert_eq!(
        reload.restart_required[0].to_string(),
        "`server.address` \"127.0.0.1:3000\" -> \"127.0.0.1:4000\""
    );
    assert_eq!(watcher.config().server.address, "127.0.0.1:3000");
    let again = watcher.reload().expect("valid");
    assert!(again.applied.is_empty());
    assert_eq!(again.restart_required, reload.restart_required);
}

#[test]
fn every_live_key_exists() {
    let reference: toml::Table = REFERENCE.parse().expect("parses");
    for key in live_keys() {
        let mut value = Some(&toml::Value::Table(reference.clone())).cloned();
        for name in key.split('.') {
            value = value.and_then(|value| value.get(name).cloned());
        }
        assert!(value.is_some(), "`{key}` is not a key or a section");
    }
}

#[cfg(feature = "full")]
#[test]
fn live_changes_reach_the_components_and_leave_alone_what_did_not_change() {
    use stellane_autotune::{AdaptiveLimit, AutoTuner, TunerMode};
    use stellane_core::{config::LiveTargets, connection::ConnectionManager, logging};
    use stellane_pool::{Pools, WorkerPool};

    let folder = Folder::new("targets");
    let file = folder.file("app.toml", OLD);
    let watcher = ConfigWatcher::new(Loader::new().file(&file)).expect("valid");
    let log = logging::init(&watcher.config().log).expect("first");
    let connections = ConnectionManager::builder().build().expect("valid");
    let limit = AdaptiveLimit::builder().build().expect("valid");
    let tuner = AutoTuner::builder().build().expect("valid");
    let pools = Pools::builder().build().expect("valid");
    let workers = WorkerPool::builder().build().expect("valid");
    let mut targets = LiveTargets::default();
    targets.pools = Some(pools.clone());
    targets.workers = Some(workers.clone());
    targets.log = Some(log.clone());
    targets.connections = Some(connections.clone());
    targets.limit = Some(limit.clone());
    targets.tuner = Some(tuner.clone());

    // As a tuner would.
    connections.set_max_connections(77);
    fs::write(
        &file,
        "[log]\nlevel = \"debug\"\n[connection]\nidle_timeout = \"7s\"\npark_after = \"1s\"\n\
         max_connections_per_peer = 3\nmax_idle_connections = 4\n[limit]\nmin = 5\nmax = 50\n\
         [tuner]\nmode = \"apply\"\n[pool]\nmax_body_bytes = \"1KiB\"\n[workers]\nmin_workers = 2\n",
    )
    .expect("write");
    let reload = watcher.reload().expect("valid");
    assert!(reload.restart_required.is_empty(), "{reload}");
    targets.apply(&reload);
    assert_eq!(log.level(), "debug");
    let config = connections.config();
    assert_eq!(config.idle_timeout, Duration::from_secs(7));
    assert_eq!(config.park_after, Duration::from_secs(1));
    assert_eq!(
        (config.max_connections_per_peer, config.max_idle_connections),
        (3, 4)
    );
    assert_eq!(
        config.max_connections, 77,
        "not in the file, so still the tuner's"
    );
    assert_eq!((limit.stats().min, limit.stats().max), (5, 50));
    assert_eq!(tuner.mode(), TunerMode::Apply);
    assert_eq!(pools.max_body_bytes(), 1024);
    assert_eq!(workers.stats().min_workers, 2);
}
