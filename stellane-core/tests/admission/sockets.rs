//! Who is refused by the preset, over real sockets: nobody who only waits, and nobody because of others who do. In
//! small form; `examples/src/bin/admission_sockets.rs` runs the same at length.

use crate::admission_rows::{Load, honest, hostile, rows};

rows! { honest:
    handlers_that_wait_refuse_nobody(
        "preset", "preset-http2", "tls-http2", "per-core", "production";
        Load::Sleep { millis: 8000, clients: 60 }
    );
    more_than_may_begin_at_once_wait_a_moment("preset", "per-core"; Load::Sleep { millis: 2000, clients: 300 });
    many_that_come_after_a_quiet_time_are_let_in("preset"; Load::SleepAfterQuiet { millis: 5000, clients: 100 });
    streams_refuse_nobody("preset", "tls-http2"; Load::Lines { every_millis: 100, clients: 100 });
    grpc_streams_refuse_no_call("per-core"; Load::Grpc { streams: 100 });
    slow_downloads_refuse_nobody("preset", "preset-http2"; Load::Download { clients: 40, rate: 50_000 });
    two_hundred_slow_readers_refuse_nobody("preset"; Load::Download { clients: 200, rate: 50_000 });
    slow_uploads_refuse_nobody("tls", "preset-http2"; Load::Upload { clients: 40, rate: 10_000 });
}

rows! { hostile:
    bodies_that_never_come_harm_nobody_else("tls-http2"; Load::StalledPosts { streams: 100 });
    a_window_of_zero_harms_nobody_else("per-core"; Load::WindowZero { streams: 100 });
    uploads_at_the_least_rate_harm_nobody_else("preset"; Load::Upload { clients: 100, rate: 250 });
    clients_that_do_not_read_harm_nobody_else("preset"; Load::Unread { clients: 100 });
    requests_that_all_come_back_at_once_harm_nobody_else(
        "preset"; Load::Return { connections: 20, busy: false }
    );
    one_connection_that_asks_for_all_leaves_the_others_their_share("preset"; Load::Greedy);
    a_class_of_few_seats_fills_no_others("preset", "preset-http2"; Load::Seats { streams: 200 });
}
