//! What is exported of what the components count: a line for each number. What the live page shows too is in the snapshot.

#[cfg(feature = "tuner")]
use std::sync::{Arc, OnceLock, Weak};

#[cfg(feature = "tuner")]
use stellane_autotune::{AutoTuner, TunerStats};
#[cfg(feature = "tuner")]
use stellane_metrics::RuntimeMetrics;
use stellane_metrics::{BuildError, Metric};

use super::Components;
#[cfg(feature = "reload")]
use crate::config::ConfigWatcher;
use crate::{
    engine_selector::EngineSelector, logging, prepared::Prepared, strict_http1::Violation,
};

/// A line is a kind, a name, a help text, and what of the component's `stats()` it is: a number, or one for each value of
/// a label.
macro_rules! numbers {
    ($to:ident, $component:expr => $($kind:ident $name:literal $help:literal $(by $label:literal)? |$stats:ident| $read:expr;)*) => {$({
        let component = $component.clone();
        $to.add(Metric::$kind($name, $help), move |values| {
            let $stats = component.stats();
            numbers!(@ values $($label)? $read);
        })?;
    })*};
    (@ $values:ident $read:expr) => { $values.set($read as f64) };
    (@ $values:ident $label:literal $read:expr) => {
        for (name, value) in $read {
            $values.labelled(&[($label, name.as_ref())], value as f64);
        }
    };
}

impl Components {
    /// All that is counted, and not in the snapshot.
    pub(super) fn export_numbers(&self) -> Result<(), BuildError> {
        let to = &self.runtime_metrics;
        numbers!(to, self.connections =>
            counter "stellane_accept_errors_total" "Accepts that failed, such as for lack of open files." |s| s.accept_errors_total;
            counter "stellane_connection_requests_total" "Requests begun on connections." |s| s.requests_total;
            gauge "stellane_connection_requests_in_flight" "Requests that wait for something." |s| s.requests_in_flight;
            counter "stellane_connection_requests_cancelled_total" "Requests whose client left before the response head." |s| s.requests_cancelled_total;
            gauge "stellane_requests_abandoned" "Requests that go on though their clients have left." |s| s.abandoned.running;
            counter "stellane_requests_abandoned_total" "Requests whose clients have left and that were to go on, by their end." by "end" |s| [("finished", s.abandoned.finished_total), ("timed_out", s.abandoned.timed_out_total), ("stopped", s.abandoned.stopped_total), ("panicked", s.abandoned.panicked_total), ("refused", s.abandoned.refused_total)];
            counter "stellane_connections_unparked_total" "Times a parked connection was put together again." |s| s.unparked_total;
            counter "stellane_connections_tls_total" "TLS handshakes that were done." |s| s.tls_total;
            counter "stellane_connections_http2_total" "Connections that began to speak HTTP/2." |s| s.http2_total;
            gauge "stellane_connections_park_after_seconds" "How long a connection is idle now before it is parked." |s| s.park_after.as_secs_f64();
            counter "stellane_connection_read_bytes_total" "Bytes read from all sockets." |s| s.bytes_read_total;
            counter "stellane_connection_written_bytes_total" "Bytes written to all sockets." |s| s.bytes_written_total;
        );
        numbers!(to, self.limit =>
            gauge "stellane_concurrency_limit_min" "The lowest that the concurrency limit may become." |s| s.min;
            gauge "stellane_concurrency_limit_max" "The highest that the concurrency limit may become." |s| s.max;
            gauge "stellane_limit_requests" "Requests under the limit, by where they are." by "state" |s| [("in_flight", s.in_flight), ("lent", s.lent), ("waiting", s.waiting), ("aside", s.aside)];
            counter "stellane_limit_changes_total" "How often the limit began or ceased to limit." |s| s.changes;
            gauge "stellane_limit_state_seconds" "How long the limit does what it does." |s| s.since.as_secs_f64();
            counter "stellane_limit_admitted_total" "Requests that got a place." |s| s.admitted;
            counter "stellane_limit_outcomes_total" "Requests that gave their place back, by what was learnt of them." by "outcome" |s| [("success", s.successes), ("overload", s.overloads), ("ignored", s.ignored), ("cancelled", s.cancelled)];
            counter "stellane_requests_would_shed_total" "Requests that a limit in force would have refused." |s| s.would_shed;
            gauge "stellane_limit_latency_p50_seconds" "Median duration of requests, as the limit measures it." |s| s.latency_p50.as_secs_f64();
            counter "stellane_limit_windows_total" "Times the limit has judged its measurements." |s| s.windows;
            gauge "stellane_limit_class_share" "Share of the places that a class may have." by "class" |s| s.classes.iter().map(|class| (&class.name, class.share));
            gauge "stellane_limit_class_requests" "Requests under the limit, by class." by "class" |s| s.classes.iter().map(|class| (&class.name, class.in_flight));
            counter "stellane_limit_class_shed_total" "Requests refused, by class." by "class" |s| s.classes.iter().map(|class| (&class.name, class.shed.iter().sum::<u64>()));
            counter "stellane_limit_class_would_shed_total" "Requests that a limit in force would have refused, by class." by "class" |s| s.classes.iter().map(|class| (&class.name, class.would_shed));
        );
        numbers!(to, self.overload =>
            counter "stellane_requests_with_deadline_total" "Requests that brought a deadline." |s| s.with_deadline;
            counter "stellane_requests_hopeless_total" "Requests refused because they could not meet their deadlines." |s| s.refused;
            gauge "stellane_pressure" "How scarce memory and open files are, from 0 to 1." |s| s.pressure;
        );
        numbers!(to, self.saturation =>
            gauge "stellane_saturation" "How much is asked of this process in terms of what it can do: 1 is all." |s| s;
        );
        numbers!(to, self.rate_limits =>
            counter "stellane_rate_limit_allowed_total" "Requests that were within a rate, by its section." by "limit" |s| s.scrape().iter().map(|(name, s)| (name, s.allowed));
            counter "stellane_rate_limit_refused_total" "Requests that came too soon for a rate, by its section." by "limit" |s| s.scraped().iter().map(|(name, s)| (name, s.rules.iter().map(|rule| rule.refused).sum::<u64>()));
            gauge "stellane_rate_limit_keys" "Clients that a rate remembers, by its section." by "limit" |s| s.scraped().iter().map(|(name, s)| (name, s.keys));
            counter "stellane_rate_limit_forgotten_total" "Clients that were forgotten before their time, for lack of room." by "limit" |s| s.scraped().iter().map(|(name, s)| (name, s.forgotten));
        );
        #[cfg(feature = "redis")]
        numbers!(to, self.rate_limits =>
            counter "stellane_rate_limit_asked_total" "Requests for which the store of a shared rate was asked, by section." by "limit" |s| s.shared().iter().map(|(name, limit)| (name, limit.asked()));
            counter "stellane_rate_limit_without_store_total" "Requests that were decided without the store, since it was away, by section." by "limit" |s| s.shared().iter().map(|(name, limit)| (name, limit.without_store()));
            gauge "stellane_rate_stores" "Stores of shared rates, by whether they answer." by "state" |s| { let there = s.stores().iter().filter(|store| store.stats().is_there).count(); [("there", there), ("away", s.stores().len() - there)] };
            counter "stellane_rate_store_round_trips_total" "Answers of the stores of shared rates." |s| s.stores().iter().map(|store| store.stats().round_trips).sum::<u64>();
            counter "stellane_rate_store_failures_total" "How often a store of shared rates was away, or refused what it was asked." |s| s.stores().iter().map(|store| store.stats().failures).sum::<u64>();
        );
        numbers!(to, self.pools =>
            counter "stellane_pool_steals_total" "Hits that had to fetch from another thread." |s| s.steals;
            counter "stellane_pool_drops_total" "Values that pools dropped, by reason." by "reason" |s| s.drops.iter().map(|(reason, count)| (reason.as_str(), count));
            gauge "stellane_pool_outstanding" "Values taken from pools and not given back." |s| s.outstanding;
            gauge "stellane_pool_idle" "Values kept in pools." |s| s.idle;
            gauge "stellane_pool_budget_bytes" "The most bytes that pools may keep." |s| s.budget_bytes;
            counter "stellane_pool_bodies_total" "Bodies collected through pools." |s| s.bodies;
            counter "stellane_pool_bodies_too_large_total" "Bodies that were larger than may be collected." |s| s.bodies_too_large;
        );
        numbers!(to, self.interner =>
            gauge "stellane_interner_max_bytes" "The most bytes that the interner may keep." |s| s.max_bytes;
            counter "stellane_interner_inserted_total" "Strings put into the interner." |s| s.inserted;
        );
        numbers!(to, self.memory =>
            gauge "stellane_memory_budget_bytes" "How many bytes bodies may hold; 0 is off." |s| s.budget_bytes;
            gauge "stellane_memory_held_bytes" "How many bytes bodies hold." |s| s.held_bytes;
            gauge "stellane_memory_answers_bytes" "Those of answers that their clients have not read." |s| s.answers_bytes;
            gauge "stellane_memory_sockets_bytes" "What the system holds for sockets; 0 where it does not tell." |s| s.sockets_bytes;
            gauge "stellane_uploads_waiting" "Uploads that wait for memory." |s| s.waiting;
            counter "stellane_uploads_waits_total" "How often an upload began to wait for memory." |s| s.waits_total;
            counter "stellane_requests_out_of_memory_total" "Requests that were ended to make room for others." |s| s.ended_total;
        );
        numbers!(to, self.faults =>
            counter "stellane_handler_panics_total" "Panics of handlers and response bodies." |s| s.panics;
            counter "stellane_handler_errors_total" "Errors that services returned." |s| s.errors;
        );
        numbers!(to, self.http1_rules =>
            counter "stellane_requests_ambiguous_total" "Requests refused by the strict rules of HTTP/1, by rule." by "violation" |s| Violation::ALL.iter().map(|one| (one.as_str(), s.refused(*one)));
        );
        let lost = Metric::counter(
            "stellane_log_lines_lost_total",
            "Log lines of the process that nobody has read in time.",
        );
        to.add(lost, |values| values.set(logging::lost() as f64))?;
        #[cfg(feature = "workers")]
        numbers!(to, self.workers =>
            gauge "stellane_worker_jobs_outstanding" "Jobs whose futures are not dropped yet." |s| s.outstanding;
            gauge "stellane_workers_min" "Worker threads there are at least." |s| s.min_workers;
            gauge "stellane_workers_max" "Worker threads there may be." |s| s.max_workers;
            gauge "stellane_worker_queue_size" "Jobs that may wait for a worker." |s| s.queue_size;
            counter "stellane_worker_jobs_submitted_total" "Jobs submitted." |s| s.submitted;
            counter "stellane_worker_jobs_total" "Jobs that ended, by how." by "outcome" |s| [("completed", s.completed), ("panic", s.panics), ("cancelled", s.cancelled), ("cancelled_waiting", s.cancelled_waiting)];
            counter "stellane_worker_blocked_total" "Polls that have held a worker for too long." |s| s.blocked;
            gauge "stellane_worker_queue_wait_p50_seconds" "Median time that a job waits for a worker." |s| s.wait_p50.as_secs_f64();
            gauge "stellane_worker_run_p50_seconds" "Median time that a job runs." |s| s.run_p50.as_secs_f64();
            gauge "stellane_worker_run_p99_seconds" "99th percentile of the time that a job runs." |s| s.run_p99.as_secs_f64();
        );
        Ok(())
    }

    /// Exports what a selector counts. Of one: a second one's numbers have the same names.
    ///
    /// # Errors
    /// There is one already.
    pub fn export_selector(&self, selector: &EngineSelector) -> Result<(), BuildError> {
        let to = &self.runtime_metrics;
        numbers!(to, selector =>
            counter "stellane_selector_requests_total" "Requests to accelerated routes, by who answered and why." by "outcome" |s| [("accelerated", s.accelerated), ("not_replayable", s.not_replayable), ("open", s.open), ("not_ready", s.not_ready), ("declined", s.declined), ("error", s.errors), ("panic", s.panics), ("timeout", s.timeouts)];
            counter "stellane_selector_breaker_opened_total" "How often the accelerated service was left alone." |s| s.breaker_opened;
        );
        Ok(())
    }

    /// Exports what prepared responses count. Of one set of them.
    ///
    /// # Errors
    /// There is one already.
    pub fn export_prepared(&self, prepared: &Prepared) -> Result<(), BuildError> {
        let to = &self.runtime_metrics;
        numbers!(to, prepared =>
            gauge "stellane_prepared_responses" "Responses that are prepared." |s| s.entries;
            gauge "stellane_prepared_bytes" "Bytes of the prepared responses." |s| s.bytes;
            counter "stellane_prepared_requests_total" "Requests for prepared responses, by what came of them." by "outcome" |s| [("served", s.served), ("not_modified", s.not_modified), ("declined", s.declined)];
        );
        Ok(())
    }

    #[cfg(feature = "reload")]
    pub(super) fn export_reloads(&self, watcher: &ConfigWatcher) -> Result<(), BuildError> {
        let to = &self.runtime_metrics;
        numbers!(to, watcher =>
            counter "stellane_config_reloads_total" "How often the configuration was read again." |s| s.reloads_total;
            counter "stellane_config_reload_failures_total" "How often the configuration was wrong then." |s| s.failures_total;
        );
        Ok(())
    }
}

/// The tuner reads the metrics: held by them, each would keep the other for ever.
#[cfg(feature = "tuner")]
pub(super) fn of_tuner(
    to: &RuntimeMetrics,
    tuner: &Weak<OnceLock<AutoTuner>>,
) -> Result<(), BuildError> {
    struct Watched(Weak<OnceLock<AutoTuner>>);

    impl Watched {
        fn stats(&self) -> TunerStats {
            let tuner = self.0.upgrade();
            let tuner = tuner.as_deref().and_then(OnceLock::get);
            tuner.map(AutoTuner::stats).unwrap_or_default()
        }
    }

    let tuner = Arc::new(Watched(tuner.clone()));
    numbers!(to, tuner =>
        counter "stellane_tuner_ticks_total" "How often the tuner has looked." |s| s.ticks;
        counter "stellane_tuner_clock_jumps_total" "How often the clock jumped." |s| s.clock_jumps;
        gauge "stellane_tuner_frozen" "1 while the tuner decides nothing." |s| u8::from(s.frozen);
        gauge "stellane_tuner_signal" "What the tuner sees, by signal." by "signal" |s| s.signals.iter().filter_map(|one| Some((&one.name, one.value?)));
        gauge "stellane_tuner_knob" "What the tuner may turn, by knob." by "knob" |s| s.knobs.iter().filter_map(|one| Some((&one.name, one.value?)));
    );
    Ok(())
}
