//! A connection that no listener of ours accepted.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::MissedTickBehavior;

use crate::connection::{
    accept::room::{admit, refuse, wait_for_room},
    early::Early,
    http_service::HttpService,
    lifecycle::Shared,
    protocol::{
        builders::HyperBuilders,
        connect_info::ConnectInfo,
        lots::Lots,
        service_source::ServiceSource,
        task::{Task, connection::Served},
    },
    reason::CloseReason,
    table::{NoRoom, clock::SWEEP_INTERVAL, command::Command, record::Record},
    transport::{parked::ParkedPoller, socket::Socket},
};

/// The group of connections that came by themselves.
const NO_LISTENER: u16 = u16::MAX;

/// Serves it to its end by what `make` has for it.
///
/// # Errors
/// Those of `make`; the connection is closed then.
pub(crate) async fn serve_connection<S: HttpService, M, E>(
    shared: Arc<Shared>,
    builders: Arc<HyperBuilders>,
    socket: Socket,
    peer: Option<SocketAddr>,
    make: impl FnOnce(ConnectInfo) -> M,
) -> Result<CloseReason, E>
where
    M: Future<Output = Result<ServiceSource<S>, E>>,
{
    let served = Arc::clone(&shared);
    let serving = async {
        let Some(record) = find_room(&shared, peer).await else {
            refuse(&shared, socket, false).await;
            return Ok(CloseReason::Refused);
        };
        let mut admitted = Admitted::new(&shared, record);
        let info = ConnectInfo::new(&socket, &admitted.record, &shared);
        let services = match admitted.make(make(info)).await {
            Ok(Ok(services)) => services,
            Ok(Err(error)) => {
                admitted.reason = CloseReason::ServiceError;
                return Err(error);
            }
            Err(reason) => {
                admitted.reason = reason;
                return Ok(reason);
            }
        };
        if shared.config.nodelay {
            socket.set_nodelay();
        }
        let record = admitted.into_record();
        let served = Arc::new(Served {
            shared: Arc::clone(&shared),
            builders,
            services,
            parked: ParkedPoller::closed(),
            early: Early::default(),
            lots: Lots::new(),
        });
        let mut task = Task::new(served, Arc::clone(&record), socket);
        poll_fn(|cx| {
            // The caller may poll it by another task than before.
            record.owner().hear(cx.waker());
            Pin::new(&mut task).poll(cx)
        })
        .await;
        Ok(task.reason().unwrap_or(CloseReason::Aborted))
    };
    sweeping(&served, serving).await
}

/// There may be no listener to sweep: one of these connections does, for all. The others sleep until it ends.
async fn sweeping<F: Future>(shared: &Shared, serving: F) -> F::Output {
    let (mut sweeps, mut serving) = (pin!(sweep_in_turn(shared)), pin!(serving));
    poll_fn(|cx| {
        let Poll::Pending = sweeps.as_mut().poll(cx);
        serving.as_mut().poll(cx)
    })
    .await
}

/// Whoever has the turn may be held by what it serves: the others look after it so often.
const LOOK: Duration = Duration::from_secs(5);

async fn sweep_in_turn(shared: &Shared) -> Infallible {
    let mut turn = pin!(shared.sweeper.lock());
    let mut pause = LOOK;
    let _turn = loop {
        tokio::select! {
            turn = &mut turn => break turn,
            () = tokio::time::sleep(pause) => pause = if shared.is_sweep_late() {
                shared.sweep_all();
                SWEEP_INTERVAL
            } else {
                // Of this runtime, which may be another.
                shared.memory.release_here();
                LOOK
            },
        }
    };
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        sweep.tick().await;
        shared.sweep_all();
    }
}

async fn find_room(shared: &Shared, peer: Option<SocketAddr>) -> Option<Arc<Record>> {
    match admit(shared, peer, NO_LISTENER) {
        Err(NoRoom::Full) => {
            let waiting = shared.waiting_room.enter();
            wait_for_room(shared, waiting, peer, NO_LISTENER).await
        }
        other => other.ok(),
    }
}

/// A connection that has a place and no task yet.
struct Admitted<'a> {
    shared: &'a Shared,
    record: Arc<Record>,
    /// Why it ends if nothing comes of it.
    reason: CloseReason,
    has_task: bool,
}

impl<'a> Admitted<'a> {
    fn new(shared: &'a Shared, record: Arc<Record>) -> Self {
        Self {
            shared,
            record,
            reason: CloseReason::Aborted,
            has_task: false,
        }
    }

    /// Waits for its service.
    ///
    /// # Errors
    /// Why the connection is to be closed meanwhile.
    async fn make<M: Future>(&self, making: M) -> Result<M::Output, CloseReason> {
        let mut making = pin!(making);
        poll_fn(|cx| {
            self.record.owner().hear(cx.waker());
            if self.record.commands().is_close()
                && let Command::Close(reason) = self.record.commands().take()
            {
                return Poll::Ready(Err(reason));
            }
            making.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// From now on its task ends it.
    fn into_record(mut self) -> Arc<Record> {
        self.has_task = true;
        Arc::clone(&self.record)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.has_task {
            self.shared.end(&self.record, self.reason);
        }
    }
}
