//! `stellane dev`: build, run, watch, rebuild, restart; nobody is refused meanwhile.
//!
//! The listening socket belongs to this process and is handed to the service (`LISTEN_FDS`), so that
//! connections wait in its queue while one process follows the other. The old service answers until
//! the new one is built. When it can't be built, a page with the errors answers.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::Failure;
use stellane_core::config::{Loader, RuntimeConfig};

mod build;
mod child;
mod page;
mod watch;

/// How often the loop looks at the files, the build and the service.
const TICK: Duration = Duration::from_millis(100);

/// Build and run a service, and again whenever a file changes, without refusing a connection.
///
/// The service finds its listening socket by `stellane_core::hot_reload::inherited_listener` (the
/// preset does it by itself) or by any other implementation of systemd's protocol, such as `listenfd`.
/// With STELLANE_HOT_RELOAD=false it runs once and files are not watched.
#[derive(Debug, clap::Args)]
pub(super) struct Dev {
    /// Where to listen. Default: `server.address` of the configuration.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Offer a profile on the admin address; may be repeated. Without a value: all of them.
    #[arg(long, value_enum, value_name = "KIND", num_args = 0..=1, default_missing_value = "all")]
    profile: Vec<ProfileKind>,
    /// Watch this folder as well as that of the Cargo workspace; may be repeated.
    #[arg(long, value_name = "FOLDER")]
    watch: Vec<PathBuf>,
    /// What `cargo run` would take: `-- --bin NAME --release -- ARGUMENTS OF THE SERVICE`.
    #[arg(last = true, value_name = "CARGO RUN ARGUMENTS")]
    cargo: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProfileKind {
    Cpu,
    Mem,
    Block,
    All,
}

impl Dev {
    pub(super) fn run(self) -> Result<(), Failure> {
        let variables = self.variables();
        let config = configuration(&variables)?;
        let address = self.address.as_deref().unwrap_or(&config.server.address);
        let listener = TcpListener::bind(address).map_err(|error| {
            Failure::input(format_args!("can't listen on `{address}`: {error}"))
        })?;
        let project = build::Project::find(&self.cargo).map_err(Failure::input)?;
        let mut roots = vec![project.root.clone()];
        roots.extend(self.watch.iter().cloned());
        // A change of the configuration file is the running service's own business.
        let ignored = [
            Some(project.target.clone()),
            Loader::from_process().path().map(PathBuf::from),
        ];
        let watcher = watch::Watcher::new(roots, ignored.into_iter().flatten().collect());

        let local = listener.local_addr().map_err(Failure::new)?;
        say(format_args!(
            "listening on http://{local}, watching {}",
            project.root.display()
        ));
        self.say_profiles(&config);
        Session {
            page: page::Page::new(listener.try_clone().map_err(Failure::new)?),
            service: child::Service::new(listener, variables),
            watcher: config.dev.hot_reload.then_some(watcher),
            project,
            stop: on_interrupt(),
        }
        .run()
    }

    /// What the service finds in its environment on top of ours.
    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        let mut variables = vec![
            ("STELLANE_ENV", "development"),
            ("STELLANE_HOT_RELOAD", "true"),
        ];
        // Those are only defaults.
        variables.retain(|(name, _)| env::var_os(name).is_none());
        for (kind, name) in [
            (ProfileKind::Cpu, "STELLANE_PROFILE_CPU"),
            (ProfileKind::Mem, "STELLANE_PROFILE_MEM"),
            (ProfileKind::Block, "STELLANE_PROFILE_BLOCK"),
        ] {
            if self.profile.contains(&kind) || self.profile.contains(&ProfileKind::All) {
                variables.push((name, "true"));
            }
        }
        variables
    }

    fn say_profiles(&self, config: &RuntimeConfig) {
        let (admin, _) = config.server.admin();
        for (on, path) in [
            (config.dev.profile_cpu, "cpu?seconds=10"),
            (config.dev.profile_mem, "heap"),
            (config.dev.profile_block, "block"),
        ] {
            if on {
                say(format_args!("profile: http://{admin}/debug/profile/{path}"));
            }
        }
    }
}

/// The configuration that the service will have.
fn configuration(variables: &[(&'static str, &'static str)]) -> Result<RuntimeConfig, Failure> {
    Loader::from_process()
        .env(variables.iter().copied())
        .load()
        .map_err(Failure::input)
}

struct Session {
    project: build::Project,
    service: child::Service,
    page: page::Page,
    watcher: Option<watch::Watcher>,
    stop: Arc<AtomicBool>,
}

impl Session {
    fn run(mut self) -> Result<(), Failure> {
        self.page.show(page::Content::building());
        while !self.stopped() {
            match self.build()? {
                Built::Program(program) => {
                    // One after the other: both would want the same admin port and files.
                    self.service.stop();
                    self.page.hide();
                    match self.service.start(&program) {
                        Ok(()) => say(format_args!("running {}", program.path.display())),
                        Err(error) => {
                            self.fail("The program could not be started", &error.to_string())
                        }
                    }
                }
                Built::Errors(errors) => self.fail("The build failed", &errors),
                Built::Changed => continue,
                Built::Stopped => break,
            }
            self.wait_for_change();
        }
        self.service.stop();
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn fail(&mut self, title: &str, text: &str) {
        say(format_args!("{title}; waiting for a change"));
        self.service.stop();
        self.page.show(page::Content::errors(title, text));
    }

    /// Builds, and gives up early when a file changes meanwhile.
    fn build(&mut self) -> Result<Built, Failure> {
        let mut build = self.project.build().map_err(Failure::new)?;
        loop {
            if let Some(result) = build.poll() {
                return Ok(match result {
                    Ok(program) => Built::Program(program),
                    Err(errors) => Built::Errors(errors),
                });
            }
            if self.stopped() {
                build.kill();
                return Ok(Built::Stopped);
            }
            if self.changed() {
                build.kill();
                return Ok(Built::Changed);
            }
            thread::sleep(TICK);
        }
    }

    fn changed(&mut self) -> bool {
        let changed = self.watcher.as_mut().and_then(watch::Watcher::poll);
        if let Some(path) = &changed {
            say(format_args!("{} changed", path.display()));
        }
        changed.is_some()
    }

    fn wait_for_change(&mut self) {
        while !self.stopped() && !self.changed() {
            if let Some(status) = self.service.ended() {
                if self.watcher.is_none() {
                    self.stop.store(true, Ordering::Relaxed);
                    return;
                }
                self.fail(
                    "The service ended",
                    &format!("{status}\n\nIts output is in the terminal."),
                );
            }
            thread::sleep(TICK);
        }
    }
}

enum Built {
    Program(build::Program),
    Errors(String),
    Changed,
    Stopped,
}

/// A flag that is set by Ctrl-C or SIGTERM.
fn on_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let stop = flag.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        if let Ok(runtime) = runtime {
            runtime.block_on(interrupt());
        }
        stop.store(true, Ordering::Relaxed);
    });
    flag
}

async fn interrupt() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

fn say(message: std::fmt::Arguments<'_>) {
    eprintln!("stellane dev: {message}");
}
