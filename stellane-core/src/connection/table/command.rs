//! What a connection's task is asked to do.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::connection::reason::CloseReason;

/// What the sweep or the handle asks of a connection's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    None,
    Park,
    Close(CloseReason),
}

const NONE: u8 = 0;
const PARK: u8 = 1;
const CLOSE: u8 = 2;

impl Command {
    /// As a record holds it.
    fn to_u8(self) -> u8 {
        match self {
            Self::None => NONE,
            Self::Park => PARK,
            Self::Close(reason) => CLOSE + reason as u8,
        }
    }

    fn from_u8(n: u8) -> Self {
        match n {
            NONE => Self::None,
            PARK => Self::Park,
            n => CloseReason::from_u8(n - CLOSE).map_or(Self::None, Self::Close),
        }
    }

    /// Whether a task that was asked for `self` is to be asked for `new`: a close gives way only to one that does not
    /// yield to a request.
    fn gives_way_to(self, new: Self) -> bool {
        match (self, new) {
            (Self::Close(old), Self::Close(new)) => {
                old.yields_to_a_request() && !new.yields_to_a_request()
            }
            (Self::Close(_), _) => false,
            (old, new) => old != new,
        }
    }
}

/// What a connection is asked now.
#[derive(Debug)]
pub(crate) struct Commands(AtomicU8);

impl Commands {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(NONE))
    }

    /// Asks the task for something; it sees it when it is polled. False if that, or something that does not give way
    /// to it, is asked already.
    pub(crate) fn ask(&self, command: Command) -> bool {
        self.0
            .fetch_update(Relaxed, Relaxed, |old| {
                let gives_way = Command::from_u8(old).gives_way_to(command);
                gives_way.then_some(command.to_u8())
            })
            .is_ok()
    }

    /// What is asked; a park is answered by asking.
    pub(crate) fn take(&self) -> Command {
        let command = self.asked();
        if command == Command::Park {
            let _ = self.0.compare_exchange(PARK, NONE, Relaxed, Relaxed);
        }
        command
    }

    /// Takes a close back, when the connection turned out to be in use.
    pub(crate) fn forget(&self) {
        self.0.store(NONE, Relaxed);
    }

    pub(crate) fn is_close(&self) -> bool {
        matches!(self.asked(), Command::Close(_))
    }

    pub(crate) fn asked(&self) -> Command {
        Command::from_u8(self.0.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_park_is_taken_once_and_a_close_stays_until_it_is_forgotten() {
        let commands = Commands::new();
        assert_eq!(commands.take(), Command::None);
        assert!(commands.ask(Command::Park) && !commands.ask(Command::Park));
        assert_eq!(
            (commands.take(), commands.take()),
            (Command::Park, Command::None)
        );
        let close = Command::Close(CloseReason::IdleTimeout);
        assert!(commands.ask(close));
        assert_eq!((commands.take(), commands.take()), (close, close));
        commands.forget();
        assert_eq!(commands.take(), Command::None);
    }

    #[test]
    fn every_command_fits_in_a_byte_and_comes_back() {
        let closes = CloseReason::ALL.iter().copied().map(Command::Close);
        for command in [Command::None, Command::Park].into_iter().chain(closes) {
            assert_eq!(Command::from_u8(command.to_u8()), command);
        }
        assert_eq!(Command::from_u8(u8::MAX), Command::None);
    }

    #[test]
    fn a_close_gives_way_only_to_one_that_yields_to_nothing() {
        use CloseReason::{IdleTimeout, Killed, MaxAge};
        use Command::{Close, None, Park};
        for (old, new, gives_way) in [
            (None, None, false),
            (None, Park, true),
            (Park, Park, false),
            (Park, Close(IdleTimeout), true),
            (Close(IdleTimeout), Park, false),
            (Close(IdleTimeout), Close(MaxAge), false),
            (Close(IdleTimeout), Close(Killed), true),
            (Close(Killed), Close(IdleTimeout), false),
        ] {
            assert_eq!(old.gives_way_to(new), gives_way, "{old:?} {new:?}");
        }
    }
}
