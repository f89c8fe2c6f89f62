//! `stellane top`: a running service at a glance, read from its admin address.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};

use self::{history::History, snapshot::Snapshot};
use super::{Failure, duration, print};

mod history;
mod snapshot;
mod view;

/// Watch a running service in the terminal.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    /// The admin address of the service. Its token is taken from `STELLANE__SERVER__ADMIN_TOKEN`.
    #[arg(default_value = "127.0.0.1:9090")]
    address: String,
    /// How often to ask.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Print what there is to see once, as text, and end.
    #[arg(long)]
    once: bool,
}

impl Top {
    pub(super) fn run(self) -> Result<(), Failure> {
        let address = self
            .address
            .trim_start_matches("http://")
            .trim_end_matches('/');
        if !is_host_and_port(address) {
            return Err(Failure::input(format_args!(
                "`{address}` is not an address: expected HOST:PORT, such as 127.0.0.1:9090"
            )));
        }
        // Before the terminal is taken, so that a wrong address is said in plain text.
        let first = snapshot::fetch(address).map_err(Failure::new)?;
        if self.once {
            return print(first);
        }
        if !std::io::stdout().is_terminal() {
            return Err(Failure::input(
                "standard output is not a terminal: use --once",
            ));
        }
        let mut terminal = ratatui::try_init().map_err(Failure::new)?;
        let result = watch(&mut terminal, address, self.interval, first);
        ratatui::restore();
        result
    }
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    address: &str,
    interval: Duration,
    first: Snapshot,
) -> Result<(), Failure> {
    let mut history = History::new(address, first);
    let mut next = Instant::now() + interval;
    loop {
        terminal
            .draw(|frame| view::draw(frame, &history))
            .map_err(Failure::new)?;
        let wait = next.saturating_duration_since(Instant::now());
        if event::poll(wait).map_err(Failure::new)? {
            if is_end(&event::read().map_err(Failure::new)?) {
                return Ok(());
            }
            continue;
        }
        next = Instant::now() + interval;
        // A service that restarts is shown as gone until it is back.
        history.push(snapshot::fetch(address));
    }
}

fn is_end(event: &Event) -> bool {
    event
        .as_key_press_event()
        .is_some_and(|key| match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
            _ => false,
        })
}
