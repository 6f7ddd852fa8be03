//! What this process counts.

use metrics_exporter_prometheus::PrometheusHandle;

const ANSWERED: &str = "capstan_cmdb_messages_total{";
const SENT: &str = "capstan_messages_sent_total{consumer=\"broker\"} ";
const LAG: &str = "capstan_messages_lag_seconds{consumer=\"broker\"} ";

/// The metrics as the binary would show them.
#[derive(Clone)]
pub(crate) struct Metrics(pub(crate) PrometheusHandle);

impl Metrics {
    /// Messages of the CMDB that were answered so far in this way: `done`, or laid aside.
    pub(crate) fn answered(&self) -> (u64, u64) {
        let text = self.0.render();
        let mut counts = (0, 0);
        for line in text.lines().filter(|line| line.starts_with(ANSWERED)) {
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
            let is_poison = line.contains("poison");
            *(if is_poison { &mut counts.1 } else { &mut counts.0 }) += count.unwrap_or_default();
        }
        counts
    }

    /// Events that were sent to the broker so far.
    pub(crate) fn sent(&self) -> u64 {
        self.value(SENT).unwrap_or_default()
    }

    /// How old the oldest event is that waits for the broker, in seconds; none: nobody has looked.
    pub(crate) fn lag(&self) -> Option<f64> {
        self.value(LAG)
    }

    fn value<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.0.render().lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
    }
}
