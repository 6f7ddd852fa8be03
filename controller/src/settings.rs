//! What a controller is made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::message::{Broker, Inbox, WebhookCaller};
use capstan_core::ports::{Cmdb, Executor, LoadBalancer, PackageStore, ScriptSource};
use capstan_core::share::Share;
use capstan_store::Begin;
use metrics_exporter_prometheus::PrometheusHandle;

/// The outside, as the controller sees it.
#[derive(Clone)]
pub struct Ports {
    /// The source of applications, groups and servers.
    pub cmdb: Arc<dyn Cmdb>,
    /// Keeps archives by their digests.
    pub packages: Arc<dyn PackageStore>,
    /// Load balancers by the names that groups use. The controller only looks.
    pub load_balancers: BTreeMap<String, Arc<dyn LoadBalancer>>,
    /// Executors by the names that groups use. The controller only asks what hosts run.
    pub executors: BTreeMap<String, Arc<dyn Executor>>,
    /// The scripts of each kind of application.
    pub scripts: Arc<dyn ScriptSource>,
    /// Where events go as messages; none: nowhere.
    pub broker: Option<Arc<dyn Broker>>,
    /// Brings messages about changes in the CMDB; none: there are none.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// Calls webhooks.
    pub webhooks: Arc<dyn WebhookCaller>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports")
            .field("load_balancers", &self.load_balancers.keys())
            .field("executors", &self.executors.keys())
            .finish_non_exhaustive()
    }
}

/// Limits and habits. The defaults are good.
#[derive(Clone)]
pub struct Settings {
    /// Largest archive that can be uploaded, in bytes; 2 GiB.
    pub max_package_bytes: u64,
    /// Largest body of any other call, in bytes; 1 MiB.
    pub max_body_bytes: usize,
    /// Chunks of servers that are looked at at the same time before a plan is made; 4.
    pub look_concurrency: usize,
    /// Live streams that may be open at the same time; 1024.
    pub max_streams: usize,
    /// How often all groups are synced when the CMDB tells of no change; 5 minutes.
    pub sync_every: Duration,
    /// A refresh from the CMDB that would remove more than this share of a group's members waits for a
    /// person; 50 %.
    pub hold_above: Share,
    /// Marks cookies as `Secure`: they are then sent over HTTPS alone. Off, since the default
    /// listens on this machine without TLS.
    pub secure_cookies: bool,
    /// How long a browser stays signed in; 12 hours.
    pub session: Duration,
    /// How long a deployment may wait for a person before it is called stale; 24 hours. Counts for
    /// deployments that are created from then on.
    pub stale_after: Duration,
    /// Hosts that are answered for, with or without port; empty: every one.
    pub allowed_hosts: Vec<String>,
    /// Whether the REST API is answered; on.
    pub serves_api: bool,
    /// Whether the pages are served; on. They need the API.
    pub serves_pages: bool,
    /// Where the broker begins that was never sent anything; now.
    pub broker_begins: Begin,
    /// How long a webhook may fail before it is switched off; 24 hours.
    pub webhook_patience: Duration,
    /// How long to wait after a webhook's first failure; doubled with each, up to 5 minutes. 1 second.
    pub webhook_first_wait: Duration,
    /// Gives the numbers for `/metrics`; none: the call answers 501.
    pub metrics: Option<PrometheusHandle>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_package_bytes: 2 * 1024 * 1024 * 1024,
            max_body_bytes: 1024 * 1024,
            look_concurrency: 4,
            max_streams: 1024,
            sync_every: Duration::from_mins(5),
            hold_above: capstan_core::decide::HOLD_ABOVE,
            secure_cookies: false,
            session: Duration::from_hours(12),
            stale_after: capstan_core::decide::STALE_AFTER,
            allowed_hosts: Vec::new(),
            serves_api: true,
            serves_pages: true,
            broker_begins: Begin::Now,
            webhook_patience: Duration::from_hours(24),
            webhook_first_wait: Duration::from_secs(1),
            metrics: None,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("max_package_bytes", &self.max_package_bytes)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("look_concurrency", &self.look_concurrency)
            .field("max_streams", &self.max_streams)
            .field("sync_every", &self.sync_every)
            .field("hold_above", &self.hold_above)
            .field("secure_cookies", &self.secure_cookies)
            .field("session", &self.session)
            .field("stale_after", &self.stale_after)
            .field("allowed_hosts", &self.allowed_hosts)
            .field("serves_api", &self.serves_api)
            .field("serves_pages", &self.serves_pages)
            .field("broker_begins", &self.broker_begins)
            .field("webhook_patience", &self.webhook_patience)
            .finish_non_exhaustive()
    }
}
