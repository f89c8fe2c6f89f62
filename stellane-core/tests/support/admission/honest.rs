use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

use super::{
    BoxError, Scale, Server,
    client::{Client, Pieces, empty},
    server::LINE,
    tally::{Answer, Tally},
};

/// How long a slow client or a stream lasts.
const LONG: Duration = Duration::from_secs(20);

pub(super) async fn sleep_for(
    server: &Arc<Server>,
    millis: u64,
    clients: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    let millis = scale.millis(millis);
    // Three answers for each client, or as many as come in a while.
    let length = Duration::from_millis(millis * 5 / 2).max(scale.of(LONG / 2));
    let path = format!("/sleep/{millis}");
    let clients = Client::many(server, clients, None).await?;
    let end = Instant::now() + length;
    let asking = clients
        .into_iter()
        .map(|client| client.keep_asking(&path, end, Duration::ZERO));
    Tally::of(asking).await
}

pub(super) async fn sleep_after_quiet(
    server: &Arc<Server>,
    millis: u64,
    clients: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    // As many answers to the bystander as a limit wants to see before it knows a service.
    sleep(Duration::from_secs(3)).await;
    sleep_for(server, millis, clients, scale).await
}

pub(super) async fn lines(
    server: &Arc<Server>,
    every: u64,
    clients: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    // Not more often where times are shorter: that would be another load.
    let count = (scale.of(LONG).as_millis() / u128::from(every)).max(3) as usize;
    let path = format!("/lines/{every}/{count}");
    let clients = Client::many(server, clients, None).await?;
    Tally::of(clients.into_iter().map(|mut client| {
        let path = path.clone();
        async move {
            let reading = async {
                let response = client.send("GET", &path, empty()).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                Ok(whole(status, body.len(), count * LINE.len()))
            };
            one(reading.await)
        }
    }))
    .await
}

pub(super) async fn grpc(
    server: &Arc<Server>,
    streams: usize,
    scale: Scale,
) -> Result<Tally, BoxError> {
    let end = Instant::now() + scale.of(LONG);
    let mut clients = Vec::<HealthClient<tonic::transport::Channel>>::new();
    while clients.len() < streams {
        let channel = channel(Arc::clone(server)).await?;
        clients.extend((0..20).map(|_| HealthClient::new(channel.clone())));
    }
    let mut checking = clients[0].clone();
    let watches = Tally::of(clients.into_iter().take(streams).map(|mut client| {
        async move {
            let watching = async {
                let mut messages = client
                    .watch(HealthCheckRequest::default())
                    .await?
                    .into_inner();
                let mut count = 0;
                while let Ok(message) = tokio::time::timeout_at(end, messages.message()).await {
                    count += usize::from(message?.is_some());
                }
                Ok(count)
            };
            let answer = match watching.await {
                // The status as it is, and at least once as it becomes.
                Ok(2..) => Answer::Served,
                Ok(count) => Answer::Failed(format!("{count} messages")),
                Err(status) => of_grpc(&status),
            };
            one(Ok(answer))
        }
    }));
    let mut tally = Tally::default();
    while Instant::now() + Duration::from_millis(200) < end {
        sleep(Duration::from_millis(100)).await;
        for status in [ServingStatus::NotServing, ServingStatus::Serving] {
            server.health.set_service_status("", status).await;
        }
        tally.add(match checking.check(HealthCheckRequest::default()).await {
            Ok(_) => Answer::Served,
            Err(status) => of_grpc(&status),
        });
    }
    let mut watched = watches.await?;
    watched.merge(tally);
    Ok(watched)
}

async fn channel(server: Arc<Server>) -> Result<tonic::transport::Channel, BoxError> {
    let connect = move |_: http::Uri| {
        let server = Arc::clone(&server);
        async move { server.connect(true, None).await.map(TokioIo::new) }
    };
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    Ok(endpoint
        .connect_with_connector(tower::service_fn(connect))
        .await?)
}

fn of_grpc(status: &tonic::Status) -> Answer {
    let text = format!("{status:?}");
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::ResourceExhausted => Answer::Refused(text),
        // An answer of HTTP that tonic can't read as one of gRPC: the refusal of who does not speak it.
        _ if text.contains("503") || text.contains("compression flag") => Answer::Refused(text),
        _ => Answer::Failed(text),
    }
}

pub(super) async fn download(
    server: &Arc<Server>,
    clients: usize,
    rate: u64,
    scale: Scale,
) -> Result<Tally, BoxError> {
    const SIZE: usize = 4 << 20;
    let path = format!("/bytes/{SIZE}");
    // Small buffers: the server is to feel that the client is slow, not the kernel.
    let clients = Client::many(server, clients, Some(16 << 10)).await?;
    let quick = Instant::now() + scale.of(LONG);
    Tally::of(clients.into_iter().map(|mut client| {
        let path = path.clone();
        async move {
            let reading = async {
                let response = client.send("GET", &path, empty()).await?;
                let status = response.status();
                let (mut body, mut count) = (response.into_body(), 0);
                let mut next = Instant::now();
                while let Some(frame) = body.frame().await {
                    let length = frame?.into_data().map_or(0, |data| data.len());
                    count += length;
                    next += Duration::from_secs_f64(length as f64 / rate as f64);
                    tokio::time::sleep_until(next.min(quick)).await;
                }
                Ok(whole(status, count, SIZE))
            };
            one(reading.await)
        }
    }))
    .await
}

pub(super) async fn upload(
    server: &Arc<Server>,
    clients: usize,
    rate: u64,
    scale: Scale,
) -> Result<Tally, BoxError> {
    const EVERY: Duration = Duration::from_millis(100);
    // Longer than what a server waits for a client that sends nothing.
    let pieces = (scale.of(2 * LONG).as_millis() / EVERY.as_millis()) as usize;
    let piece = rate as usize / 10;
    let clients = Client::many(server, clients, None).await?;
    Tally::of(clients.into_iter().map(|mut client| async move {
        let pieces_of_it = stream::iter(0..pieces).then(move |_| async move {
            sleep(EVERY).await;
            Ok(Frame::data(Bytes::from(vec![b'x'; piece])))
        });
        let body: Pieces = StreamBody::new(pieces_of_it.boxed());
        let sending = async {
            let response = client.send("POST", "/upload", body).await?;
            let status = response.status();
            let text = response.into_body().collect().await?.to_bytes();
            let count = std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.parse().ok());
            Ok(whole(status, count.unwrap_or(0), pieces * piece))
        };
        one(sending.await)
    }))
    .await
}

/// Served if nothing is missing.
pub(super) fn whole(status: http::StatusCode, count: usize, expected: usize) -> Answer {
    match Answer::of_status(status) {
        Answer::Served if count != expected => {
            Answer::Failed(format!("{count} of {expected} bytes"))
        }
        answer => answer,
    }
}

fn one(answer: Result<Answer, BoxError>) -> Tally {
    let mut tally = Tally::default();
    tally.add(answer.into());
    tally
}
