//! The guard: what a call leaves in the metrics.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use capstan_core::ServerId;
use capstan_core::ports::{Cmdb, Endpoint, LoadBalancer};
use capstan_drivers::cmdb_records::Names;
use capstan_drivers::fake::{Act, FakeLoadBalancer, Fault};
use capstan_drivers::file_cmdb::FileCmdb;
use capstan_drivers::guard::{Guard, METRIC};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use uuid::Uuid;

/// Remembers the labels of every value that is recorded.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<String>>>);

struct Entry(String, Memory);

impl HistogramFn for Entry {
    fn record(&self, value: f64) {
        assert!(value >= 0.0);
        self.1.0.lock().expect("no test panicked").push(self.0.clone());
    }
}

impl Recorder for Memory {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}
    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}
    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}

    fn register_counter(&self, _key: &Key, _metadata: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        assert_eq!(key.name(), METRIC);
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        Histogram::from_arc(Arc::new(Entry(labels.join(" "), self.clone())))
    }
}

#[test]
fn every_call_is_measured_with_its_outcome() {
    let memory = Memory::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    metrics::with_local_recorder(&memory, || runtime.block_on(calls()));
    let recorded = memory.0.lock().expect("no test panicked").clone();
    assert_eq!(
        recorded,
        [
            "load_balancer edge drain ok",
            "load_balancer edge drain refused",
            "load_balancer edge drain busy",
            "load_balancer edge drain unknown",
            "load_balancer edge drain timeout",
            "load_balancer edge observe ok",
            "cmdb file groups busy",
        ]
    );
}

async fn calls() {
    let server = Endpoint {
        server: ServerId(Uuid::now_v7()),
        hostname: "web-1".to_owned(),
        instance: String::new(),
        ip_address: "127.0.0.1".to_owned(),
        port: 8080,
        root: "/srv/web".to_owned(),
        idc: "sh".to_owned(),
        health_url: String::new(),
    };
    let fake = Arc::new(FakeLoadBalancer::new());
    let inner = Arc::clone(&fake) as Arc<dyn LoadBalancer>;
    let guard = Guard::load_balancer("edge", inner).with_limit(Duration::from_millis(50));
    assert!(guard.can_drain());
    for fault in [
        Fault::None,
        Fault::Refuse,
        Fault::Busy,
        Fault::LoseAnswer,
        Fault::Delay(Duration::from_mins(1)),
    ] {
        let is_good = fault == Fault::None;
        fake.fail_next(server.server, Act::Drain, fault);
        assert_eq!(guard.drain(&server).await.is_ok(), is_good);
    }
    assert!(guard.observe(std::slice::from_ref(&server)).await.is_ok());

    let folder = tempfile::tempdir().expect("a folder");
    let cmdb = FileCmdb::open(folder.path().join("missing.yaml"), Names::default()).await;
    let guard = Guard::cmdb("file", Arc::new(cmdb) as Arc<dyn Cmdb>);
    assert!(guard.groups().await.is_err());
    assert_eq!(guard.faults().len(), 1);
}
