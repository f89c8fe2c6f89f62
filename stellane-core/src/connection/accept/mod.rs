//! The loop that takes connections in, hands them to others or serves them, wakes parked ones, and sweeps.

pub(crate) mod group;
#[cfg(feature = "tls")]
pub(crate) mod handshake;
pub(crate) mod proxied;
pub(crate) mod refuser;
pub(crate) mod room;
pub(crate) mod single;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    task::{JoinSet, yield_now},
    time::MissedTickBehavior,
};

use crate::connection::{
    accept::{
        group::{Group, Lobby},
        proxied::PendingProxyHeaders,
        refuser::Refuser,
    },
    error::ServeError,
    http_service::HttpService,
    lifecycle::Shared,
    protocol::{
        builders::HyperBuilders, lots::Lots, service_source::ServiceSource,
        task::connection::Served,
    },
    table::clock::SWEEP_INTERVAL,
    transport::{
        listener::{Listener, balance::LoopHandle},
        parked::ParkedPoller,
        socket::Socket,
    },
};

pub(crate) async fn serve_all<S: HttpService>(
    shared: Arc<Shared>,
    builders: Arc<HyperBuilders>,
    listeners: Vec<Listener>,
    services: impl Fn() -> ServiceSource<S>,
) -> Result<(), ServeError> {
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(serve(
            Arc::clone(&shared),
            Arc::clone(&builders),
            listener,
            services(),
        ));
    }
    drop(services);
    while let Some(ended) = loops.join_next().await {
        match ended {
            Ok(served) => served?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => {}
        }
    }
    Ok(())
}

pub(crate) async fn serve<S: HttpService>(
    shared: Arc<Shared>,
    builders: Arc<HyperBuilders>,
    mut listener: Listener,
    services: ServiceSource<S>,
) -> Result<(), ServeError> {
    let open = shared.quiet.open_listener();
    let (parked, mut parked_events) =
        ParkedPoller::new().map_err(|source| ServeError { source })?;
    let id = shared.table.next_group();
    if let Some(on_end) = services.on_end() {
        shared.end_hooks.add(id, on_end);
    }
    let group = Group {
        served: Arc::new(Served {
            shared: Arc::clone(&shared),
            builders,
            services,
            parked,
            early: listener.early(),
            lots: Lots::new(),
        }),
        id,
        tell_nodelay: shared.config.nodelay && !listener.set_nodelay(),
        #[cfg(feature = "tls")]
        tls: listener.acceptor(),
    };
    let mut pending = PendingProxyHeaders::new(&shared);
    let mut lobby = Lobby::new();
    let mut refuser = Refuser::default();
    // Nothing is accepted before, since there were no more open files.
    let mut rests_until = None;
    let mut loop_handle = listener.join(id);
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether the sweep is on its way.
    let mut sweeping = false;
    let mut drain = std::pin::pin!(shared.drain.announced());

    loop {
        // The only waits of this loop are these, beside everything else that it does.
        let accept = async {
            // A timer of the past fires with the next millisecond only.
            if let Some(instant) = rests_until {
                tokio::time::sleep_until(instant).await;
            }
            wait_for_the_rate(&shared).await;
            listener.accept().await
        };
        tokio::select! {
            accepted = accept => match accepted {
                Ok((socket, peer)) => {
                    rests_until = None;
                    if shared.admission.rate.is_limited() {
                        shared.admission.rate.take(shared.clock.elapsed());
                    }
                    if let Some((socket, peer)) = group.keep(loop_handle.as_ref(), socket, peer)
                        && let Some((socket, peer)) = pending.receive(socket, peer)
                    {
                        group.serve(&mut lobby, socket, peer);
                    }
                }
                Err(error) => rests_until = group.survive(error)?,
            },
            Some(offer) = next_offer(&mut loop_handle) => {
                group.receive(&mut pending, &mut lobby, offer);
            }
            (socket, peer, _outside) = pending.next() => group.serve(&mut lobby, socket, peer),
            Some(_) = lobby.join_next() => {}
            readable = parked_events.readable() => {
                let in_lots = group.unpark_some(readable, &mut refuser).await?;
                parked_events.read_in_lots(in_lots);
            }
            _ = sweep.tick() => {
                sweeping = shared.sweep();
                let (lots, now) = (&group.served.lots, shared.clock.elapsed());
                lots.forget(now);
                parked_events.read_in_lots(lots.are_read(now));
            }
            () = yield_now(), if sweeping => sweeping = shared.continue_sweep(),
            () = &mut drain => break,
        }
    }
    // Clients whose handshake the system has already finished believe they are connected: take them too.
    while let Ok(Ok((socket, peer))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await
    {
        if let Some((socket, peer)) = pending.receive(socket, peer) {
            group.serve(&mut lobby, socket, peer);
        }
    }
    if let Some(loop_handle) = &mut loop_handle {
        loop_handle.close();
    }
    while let Some(offer) = next_offer(&mut loop_handle).await {
        group.receive(&mut pending, &mut lobby, offer);
    }
    drop(listener);
    drop(open);
    while group.is_busy() || !pending.is_empty() || !lobby.is_empty() {
        tokio::select! {
            (socket, peer, _outside) = pending.next() => group.serve(&mut lobby, socket, peer),
            Some(_) = lobby.join_next() => {}
            readable = parked_events.readable() => {
                let in_lots = group.unpark_some(readable, &mut refuser).await?;
                parked_events.read_in_lots(in_lots);
            }
            _ = sweep.tick() => sweeping = shared.sweep(),
            () = yield_now(), if sweeping => sweeping = shared.continue_sweep(),
        }
    }
    Ok(())
}

/// The next connection from a loop that shares the listening socket; `None` if there is none to come.
async fn next_offer(
    loop_handle: &mut Option<LoopHandle>,
) -> Option<io::Result<(Socket, Option<SocketAddr>)>> {
    loop_handle.as_mut()?.receive().await
}

/// Waits until the configured rate lets another connection in.
async fn wait_for_the_rate(shared: &Shared) {
    let rate = &shared.admission.rate;
    while rate.is_limited()
        && let Some(pause) = rate.pause(shared.clock.elapsed())
    {
        tokio::time::sleep(pause).await;
    }
}
