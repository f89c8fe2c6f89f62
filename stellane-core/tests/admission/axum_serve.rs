//! Who is refused by `AdaptiveLimitLayer` alone in `axum::serve`, with `LocalSignal::tokio` and without, over real
//! sockets: nobody who only waits, and nobody
//! because of others who do.

use crate::admission_rows::{Load, honest, hostile, rows};

rows! { honest:
    handlers_that_wait_refuse_nobody("axum", "axum-http2", "axum-signal", "axum-signal-http2"; Load::Sleep { millis: 8000, clients: 60 });
    more_than_may_begin_at_once_wait_a_moment("axum", "axum-signal"; Load::Sleep { millis: 2000, clients: 300 });
    many_that_come_after_a_quiet_time_are_let_in("axum", "axum-signal"; Load::SleepAfterQuiet { millis: 5000, clients: 100 });
    streams_refuse_nobody("axum", "axum-signal"; Load::Lines { every_millis: 100, clients: 100 });
    grpc_streams_refuse_no_call("axum", "axum-signal"; Load::Grpc { streams: 100 });
    slow_downloads_refuse_nobody("axum", "axum-http2", "axum-signal", "axum-signal-http2"; Load::Download { clients: 40, rate: 50_000 });
    two_hundred_slow_readers_refuse_nobody("axum"; Load::Download { clients: 200, rate: 50_000 });
    slow_uploads_refuse_nobody("axum", "axum-http2", "axum-signal", "axum-signal-http2"; Load::Upload { clients: 40, rate: 10_000 });
}

rows! { hostile:
    bodies_that_never_come_harm_nobody_else("axum", "axum-signal"; Load::StalledPosts { streams: 100 });
    a_window_of_zero_harms_nobody_else("axum", "axum-signal"; Load::WindowZero { streams: 100 });
    clients_that_do_not_read_harm_nobody_else("axum", "axum-signal"; Load::Unread { clients: 100 });
    requests_that_all_come_back_at_once_harm_nobody_else("axum", "axum-signal"; Load::Return { connections: 20, busy: false });
    a_class_of_few_seats_fills_no_others("axum", "axum-signal"; Load::Seats { streams: 200 });
}
