//! What a process of the fleet does: `serve database`, `serve replica DATABASE SEATS REDIS`, `serve gateway`. It drains and ends when
//! its standard input does.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Path, routing::get};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use stellane_core::{BoxError, Components, RefusalKind, Runtime, RuntimeConfig, config::Loader};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tower::ServiceExt;

use crate::client::{self, Upstream};

/// Which replica has answered.
pub(crate) const REPLICA: HeaderName = HeaderName::from_static("x-replica");
/// Who has refused, and why.
pub(crate) const REFUSED_BY: HeaderName = HeaderName::from_static("x-refused-by");
/// So many queries the database works on at a time.
pub(crate) const QUERIES: usize = 8;
/// So often a tenant may ask in a second.
pub(crate) const TENANT: f64 = 30.0;

pub(crate) async fn serve(role: &[String]) -> Result<(), BoxError> {
    let role: Vec<&str> = role.iter().map(String::as_str).collect();
    let lines = standard_input();
    match *role {
        ["database"] => database(lines).await,
        ["replica", database, seats, redis] => {
            replica(database, seats.parse()?, redis, lines).await
        }
        ["gateway"] => gateway(lines).await,
        _ => Err(format!("no such role: {role:?}").into()),
    }
}

fn standard_input() -> mpsc::Receiver<String> {
    let (lines, read) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    read
}

async fn ended(mut lines: mpsc::Receiver<String>) {
    while lines.recv().await.is_some() {}
}

/// Works on a few queries at a time, in their order. A query whose client has gone is worked on still.
async fn database(lines: mpsc::Receiver<String>) -> Result<(), BoxError> {
    let (places, millis) = (
        Arc::new(Semaphore::new(QUERIES)),
        Arc::new(AtomicU64::new(5)),
    );
    let changed = Arc::clone(&millis);
    let change = move |Path(millis): Path<u64>| {
        changed.store(millis, Relaxed);
        ready("changed")
    };
    let order = move || {
        let (places, millis) = (Arc::clone(&places), Arc::clone(&millis));
        let query = tokio::spawn(async move {
            let _place = places.acquire().await;
            sleep(Duration::from_millis(millis.load(Relaxed))).await;
            "42"
        });
        async { query.await.unwrap_or("it ends") }
    };
    let app = Router::new()
        .route("/millis/{millis}", get(change))
        .route("/order", get(order));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let serving = async { axum::serve(listener, app).await };
    tokio::select! {
        served = serving => Ok(served?),
        () = ended(lines) => Ok(()),
    }
}

/// Has seats, of which a request takes one for 20 ms, and then asks the database.
async fn replica(
    database: &str,
    seats: usize,
    redis: &str,
    lines: mpsc::Receiver<String>,
) -> Result<(), BoxError> {
    let mut text = String::from(
        r#"
        [fleet]
        load_reports = "answers"
        hand_on_deadlines = true
        [engine]
        kind = "handoff"
        [server]
        drain_delay = "1s"
        "#,
    );
    if !redis.is_empty() {
        text += &format!(
            "[rate_limit.keys]\nkey = \"header:x-api-key\"\nrules = [\"20/s\"]\nshared = \"{redis}\"\n"
        );
    }
    let (database, all) = (client::one(database)?, seats);
    let seats = Arc::new(Semaphore::new(seats));
    let free = Arc::clone(&seats);
    let app = move |components: &Components| {
        let order = move || {
            let (seats, database) = (Arc::clone(&seats), database.clone());
            async move {
                let seat = seats.acquire().await;
                sleep(Duration::from_millis(20)).await;
                drop(seat);
                forward(&database, "/order").await
            }
        };
        let limit = components.limit.clone();
        Router::new()
            .route("/order", get(order))
            .route(
                "/block",
                get(async || std::thread::sleep(Duration::from_secs(1))),
            )
            .route("/limit", get(move || ready(limit.explain().to_string())))
    };
    let bound = Runtime::builder()
        .config(config(&text)?)
        .load_reports(move |reports, _| {
            reports.application_utilization(move || {
                Some(1.0 - free.available_permits() as f64 / all as f64)
            })
        })
        .on_refusal(|kind, _| Some(own("replica", kind)))
        .shutdown_signal(ended(lines))
        .service_with(app)
        .build()?
        .bind("127.0.0.1:0")
        .await?;
    println!("{}", bound.local_addr());
    bound.serve().await?;
    Ok(())
}

/// Hands everything on to the replicas, whose list comes by its standard input.
async fn gateway(mut lines: mpsc::Receiver<String>) -> Result<(), BoxError> {
    let text = format!(
        r#"
        [fleet]
        hand_on_deadlines = true
        [rate_limit.tenants]
        key = "header:x-tenant"
        rules = ["{TENANT}/s"]
        "#
    );
    let (lists, listed) = mpsc::channel(1);
    let replicas = client::balanced(listed);
    let end = async move {
        while let Some(list) = lines.recv().await {
            let _ = lists.send(list).await;
        }
    };
    let app = move |components: &Components| {
        let handed = move |request: Request<Body>| {
            let replicas = replicas.clone();
            async move { forward(&replicas, request.uri().path()).await }
        };
        let limit = components.limit.clone();
        Router::new()
            .route("/limit", get(move || ready(limit.explain().to_string())))
            .fallback(handed)
    };
    let bound = Runtime::builder()
        .config(config(&text)?)
        .on_refusal(|kind, _| Some(own("gateway", kind)))
        .shutdown_signal(end)
        .service_with(app)
        .build()?
        .bind("127.0.0.1:0")
        .await?;
    println!("{}", bound.local_addr());
    bound.serve().await?;
    Ok(())
}

/// Says why, without what differs from one to the next: users are counted by what they were told.
fn own(role: &str, kind: RefusalKind) -> Response<Bytes> {
    let why = match kind {
        RefusalKind::RateLimited(_) => "RateLimited".to_owned(),
        kind => format!("{kind:?}"),
    };
    refused(kind.status(), &format!("the {role}: {why}"))
}

fn config(text: &str) -> Result<RuntimeConfig, BoxError> {
    let config = Loader::new().text("fleet.toml", text).load()?;
    Ok(config.with(|config| config.server.admin_address = String::new()))
}

fn refused(status: StatusCode, why: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"refused\n"));
    *response.status_mut() = status;
    if let Ok(why) = HeaderValue::try_from(why) {
        response.headers_mut().insert(REFUSED_BY, why);
    }
    response
}

/// What the next one in the chain answers.
async fn forward(upstream: &Upstream, path: &str) -> Response<Body> {
    let asked = Request::get(path).body(Empty::new());
    let answer = match asked {
        Ok(request) => upstream.clone().oneshot(request).await,
        Err(error) => Err(error.into()),
    };
    answer.unwrap_or_else(|error| {
        refused(StatusCode::BAD_GATEWAY, &format!("a connection: {error}")).map(Body::from)
    })
}
