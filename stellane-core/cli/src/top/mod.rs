//! `stellane top`: a running service at a glance, read from its admin address.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::{
        event::{self, Event, KeyCode, KeyModifiers},
        terminal,
    },
};

use self::history::History;
use super::{Failure, admin::Admin, duration, print};

mod history;
mod snapshot;
mod view;

/// Watch a running service in the terminal.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    /// The admin address of the service. Default: that of the configuration here.
    ///
    /// That is `server.admin_address` of `STELLANE_CONFIG` and the environment. The token is taken from
    /// `STELLANE__SERVER__ADMIN_TOKEN`.
    address: Option<String>,
    /// How often to ask.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Print the screen once, and end.
    #[arg(long, conflicts_with = "json")]
    once: bool,
    /// Print what the service says once, as JSON for a script, and end.
    #[arg(long)]
    json: bool,
}

impl Top {
    pub(super) fn run(self) -> Result<(), Failure> {
        let admin = Admin::at(self.address.as_deref())?;
        // Before the terminal is taken, so that a wrong address is said in plain text.
        let first = snapshot::fetch(&admin).map_err(Failure::new)?;
        if self.json {
            return print(format_args!("{:#}\n", first.json()));
        }
        let history = History::new(&admin, first);
        if self.once {
            return print(screen(&history)?);
        }
        if !std::io::stdout().is_terminal() {
            return Err(Failure::input(
                "standard output is not a terminal: use --once or --json",
            ));
        }
        let mut terminal = ratatui::try_init().map_err(Failure::new)?;
        let result = watch(&mut terminal, &admin, self.interval, history);
        ratatui::restore();
        result
    }
}

/// What a terminal would show, as text: as wide as the one there is.
fn screen(history: &History) -> Result<String, Failure> {
    let width = match terminal::size() {
        Ok((width, _)) if std::io::stdout().is_terminal() => width,
        _ => 120,
    };
    let mut terminal = Terminal::new(TestBackend::new(width, 50)).map_err(Failure::new)?;
    terminal
        .draw(|frame| view::draw(frame, history))
        .map_err(Failure::new)?;
    let cells = terminal.backend().buffer().content();
    let lines = cells.chunks(usize::from(width.max(1))).map(|line| {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned() + "\n"
    });
    Ok(lines.collect())
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    admin: &Admin,
    interval: Duration,
    mut history: History,
) -> Result<(), Failure> {
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
        history.push(snapshot::fetch(admin));
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
