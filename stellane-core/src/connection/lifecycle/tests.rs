use super::*;
use crate::connection::state::ConnectionState;

fn shared(config: ConnectionConfig) -> Shared {
    Shared::new(config, None)
}

fn accept(shared: &Shared) -> Arc<Record> {
    shared.insert(None, 0).expect("room")
}

#[tokio::test(start_paused = true)]
async fn a_sweep_asks_those_whose_time_is_over() {
    let shared = shared(ConnectionConfig {
        first_byte_timeout: Duration::from_secs(60),
        ..ConnectionConfig::default()
    });
    let (new, head) = (accept(&shared), accept(&shared));
    head.enter(ConnectionState::Head, 0);
    for (seconds, asked_new, asked_head) in [
        (2, Command::Park, Command::None),
        (
            58,
            Command::Close(CloseReason::FirstByteTimeout),
            Command::Close(CloseReason::HeadTimeout),
        ),
    ] {
        for _ in 0..seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            shared.sweep_all();
        }
        let asked = (new.commands().take(), head.commands().take());
        assert_eq!(asked, (asked_new, asked_head), "after {seconds} s more");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_beyond_the_limit_are_closed_the_idlest_first() {
    let config = ConnectionConfig {
        max_idle_connections: 2,
        park: false,
        ..ConnectionConfig::default()
    };
    let shared = shared(config);
    let idle: Vec<_> = (0..5)
        .map(|since| {
            let record = accept(&shared);
            record.enter(ConnectionState::Active, 0);
            record.enter(ConnectionState::Idle, since * 10);
            record
        })
        .collect();
    tokio::time::advance(Duration::from_secs(1)).await;
    shared.sweep_all();
    let asked = idle.iter().filter(|record| record.commands().is_close());
    assert_eq!(asked.count(), 0, "none may lose a request by it");
    tokio::time::advance(Duration::from_millis(200)).await;
    shared.sweep_all();
    let asked: Vec<_> = idle
        .iter()
        .map(|record| record.commands().is_close())
        .collect();
    assert_eq!(asked, [true, true, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_its_connections_and_aborts_those_that_stay() {
    let shared = shared(ConnectionConfig::default());
    let (good, bad) = (accept(&shared), accept(&shared));
    let ends = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(good.flags().closes_after_response(), "it was told");
        shared.end(&good, CloseReason::Drained);
        tokio::time::sleep(Duration::from_secs(9)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let close = bad.commands().take();
        assert_eq!(close, Command::Close(CloseReason::Aborted));
        shared.end(&bad, CloseReason::Aborted);
    };
    let (report, ()) = tokio::join!(shared.drain(Duration::from_secs(10)), ends);
    assert_eq!((report.closed, report.aborted, report.left), (2, 1, 0));
}

#[tokio::test]
async fn the_end_of_an_upgraded_connection_has_the_reason_that_it_was_told() {
    let shared = shared(ConnectionConfig::default());
    let (by_itself, told) = (accept(&shared), accept(&shared));
    let id = told.id();
    shared.command_each(|record| match record.id() == id {
        true => Command::Close(CloseReason::Killed),
        false => Command::None,
    });
    shared.end_upgraded(&by_itself);
    shared.end_upgraded(&told);
    let stats = shared.stats();
    let ended = [CloseReason::Upgraded, CloseReason::Killed].map(|reason| stats.closed(reason));
    assert_eq!((ended, stats.open), ([1, 1], 0));
}

#[tokio::test(start_paused = true)]
async fn as_places_run_out_the_slowest_go_and_no_more_than_have_to() {
    let config = ConnectionConfig {
        max_connections: 400,
        ..ConnectionConfig::default()
    };
    let shared = shared(config);
    // Ten in a second that send no whole head.
    let mut slow = Vec::new();
    let mut ages = Vec::new();
    for tenth in 0..600 {
        tokio::time::advance(Duration::from_millis(100)).await;
        let record = accept(&shared);
        record.enter(ConnectionState::Head, shared.clock.tick());
        slow.push((tenth, record));
        shared.sweep_all();
        slow.retain(|(since, record)| {
            let close = record.commands().is_close();
            if close {
                ages.push(tenth - since);
                shared.end(record, CloseReason::HeadTimeout);
            }
            !close
        });
    }
    // The level is found at which as many go as come.
    assert!((200..300).contains(&slow.len()), "{}", slow.len());
    assert!(ages.iter().all(|tenths| *tenths > 200), "{ages:?}");
    assert!(shared.pressure.level() > 0.0);
}
