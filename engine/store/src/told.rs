//! What has been committed, told to the log and the metrics: one line per event.

use capstan_core::event::{Event, EventType};
use capstan_core::state::GroupState;

/// Says what the metrics of this crate mean. Called once, after the recorder is installed.
pub fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_histogram!("capstan_commit_seconds", Unit::Seconds, "Time of the committer's writes");
    describe_histogram!(
        "capstan_store_operation_seconds",
        Unit::Seconds,
        "Time of the store's other operations"
    );
    describe_counter!("capstan_commits_lost_total", "Comparisons of a group's version that failed");
    describe_counter!("capstan_events_total", "Events that were committed, by type");
    describe_counter!(
        "capstan_claims_lost_total",
        "Orders that were taken over from a process that had claimed them and is gone"
    );
    describe_gauge!("capstan_group_servers_out", "Servers of a group that are out of service");
    describe_gauge!("capstan_group_servers_out_limit", "L: how many may be out when one is taken");
}

/// Tells what was committed for one group.
pub(crate) fn tell(state: &GroupState, events: &[Event]) {
    let group = state.group.binding.group.as_str();
    let mut figures = (None, None);
    for event in events {
        metrics::counter!("capstan_events_total", "type" => event.kind.word()).increment(1);
        if event.kind == EventType::TargetTakenOver {
            metrics::counter!("capstan_claims_lost_total").increment(1);
        }
        figures.0 = event.data.out_count.or(figures.0);
        figures.1 = event.data.limit.or(figures.1);
        log(state, group, event);
    }
    let application = state.group.application.name.as_str();
    let names = ["capstan_group_servers_out", "capstan_group_servers_out_limit"];
    for (name, figure) in names.into_iter().zip([figures.0, figures.1]) {
        if let Some(figure) = figure {
            let labels = [("application", application.to_owned()), ("group", group.to_owned())];
            metrics::gauge!(name, &labels).set(f64::from(figure));
        }
    }
}

/// What happens to single targets as it should is said at `debug`, everything else at `info`: ten
/// thousand servers in five stages would drown it.
fn log(state: &GroupState, group: &str, event: &Event) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                event = event.kind.word(),
                seq = event.seq,
                group,
                deployment = event.deployment.map(tracing::field::display),
                batch = event.batch,
                hostname = event
                    .server
                    .and_then(|id| state.server(id))
                    .map(|server| server.hostname.as_str()),
                from = event.data.from.as_deref(),
                to = event.data.to.as_deref(),
                cause = event.cause.map(|cause| cause.word()),
                actor = event.actor,
                message = event.data.message.as_deref().unwrap_or_default(),
            )
        };
    }
    let is_usual = event.kind == EventType::TargetStatus && event.cause.is_none();
    if is_usual { line!(debug) } else { line!(info) }
}
