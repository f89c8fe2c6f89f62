//! A connection of which nothing is there but its socket.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{
    http_service::HttpService,
    protocol::{
        http1::fast_path::refusal::Judged,
        task::{
            Stage, Task,
            connection::{Connection, FIRST_READ, Step},
        },
    },
    reason::CloseReason,
    table::{command::Command, owner::SocketOwner},
};

impl<S: HttpService> Task<S> {
    pub(crate) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Step<()> {
        let Stage::Waiting(socket) = &mut self.stage else {
            return Step::Next(());
        };
        let record = &self.connection.record;
        // Read on the stack: a connection that only wants to close never costs a buffer. Through TLS this
        // also finds what rustls has decrypted already, before it waits for more.
        let mut buffer = [0; FIRST_READ];
        let mut unread = ReadBuf::new(&mut buffer);
        let read = match Pin::new(&mut *socket).poll_read(cx, &mut unread) {
            Poll::Pending => {
                return match record.commands().take() {
                    // The client was faster; tokio tells of it in a moment.
                    Command::Close(reason)
                        if reason.yields_to_a_request() && socket.has_bytes() =>
                    {
                        Step::Wait
                    }
                    Command::Close(reason) => {
                        socket.say_goodbye(cx);
                        Step::End(reason)
                    }
                    Command::Park if !self.connection.served.parked.takes(socket) => {
                        self.refuse_to_park()
                    }
                    Command::Park => self.leave(),
                    Command::None => Step::Wait,
                };
            }
            Poll::Ready(Ok(())) => unread.filled().len(),
            // TLS without its goodbye.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Poll::Ready(Err(_)) => return Step::End(CloseReason::IoError),
        };
        if read == 0 {
            socket.say_goodbye(cx);
            return Step::End(CloseReason::ClientClosed);
        }
        match record.commands().take() {
            Command::Close(reason) if !reason.yields_to_a_request() => return Step::End(reason),
            // The client was faster than the close.
            _ => record.commands().forget(),
        }
        record.add_read(read);
        let wakes = &self.connection.served.shared.wakes;
        wakes.look_back(|| socket.age_of_bytes());
        if let Stage::Waiting(socket) = mem::replace(&mut self.stage, Stage::Ended) {
            self.stage = Stage::Resumed(
                socket,
                Bytes::copy_from_slice(&buffer[..read]),
                Judged::default(),
            );
        }
        Step::Next(())
    }

    /// Leaves the command standing, so that the sweep does not wake the task for it again and again.
    pub(crate) fn refuse_to_park(&self) -> Step<()> {
        self.connection.record.commands().ask(Command::Park);
        Step::Wait
    }

    /// Leaves the socket to the poller, and ends without ending the connection.
    pub(crate) fn leave(&mut self) -> Step<()> {
        let Stage::Waiting(socket) = mem::replace(&mut self.stage, Stage::Ended) else {
            return Step::Next(());
        };
        let Connection { served, record, .. } = &self.connection;
        // Held to the end, so that no command and no byte is missed.
        let mut owner = record.owner().lock();
        match served.parked.park(socket, record.slot()) {
            Ok(Ok(parked)) => {
                *owner = SocketOwner::Parked(parked);
                self.stage = Stage::Left;
                Step::Next(())
            }
            Ok(Err(socket)) => {
                self.stage = Stage::Waiting(socket);
                Step::Next(())
            }
            Err(_) => Step::End(CloseReason::IoError),
        }
    }
}
