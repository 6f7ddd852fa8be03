//! A NetBox with devices and virtual machines, in its shapes.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use capstan_core::ports::{Cmdb, CmdbGroup};
use capstan_drivers::cmdb_records::Names;
use capstan_drivers::http_cmdb::Asking;
use capstan_drivers::netbox_cmdb::{Mapping, NetboxCmdb, Settings, authorization};
use serde_json::{Value, json};

pub(crate) const V1: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const V2: &str = "nbt_4F9DAouzURLb.zjebxBPzICiPbWz0Wtx0fTL7bCKXKGTYhNzkgC2S";

pub(crate) type Parameters = Vec<(String, String)>;

#[derive(Debug, Default)]
pub(crate) struct NetBox {
    pub(crate) devices: Vec<Value>,
    pub(crate) machines: Vec<Value>,
    /// Objects per page at most, whatever is asked for.
    pub(crate) largest_page: usize,
    /// How many lists still change between their pages.
    pub(crate) changing: usize,
    /// Instead of an answer.
    pub(crate) fault: Option<(u16, &'static str)>,
    /// Every page is the first one.
    pub(crate) repeats: bool,
    /// What is gone while a list is read is replaced, so that the list is as long as before.
    pub(crate) replaces: bool,
    pub(crate) asked: Vec<(String, Parameters)>,
}

pub(crate) type Shared = Arc<Mutex<NetBox>>;

pub(crate) struct Server {
    pub(crate) netbox: Shared,
    pub(crate) cmdb: NetboxCmdb,
}

pub(crate) fn mapping() -> Mapping {
    Mapping {
        tag: "capstan".to_owned(),
        group_field: "capstan_group".to_owned(),
        application_field: "capstan_application".to_owned(),
        port_field: "capstan_port".to_owned(),
        root_field: "capstan_root".to_owned(),
        pool_field: "capstan_pool".to_owned(),
        scale_out_field: "capstan_scale_out".to_owned(),
        on_lb_failure_field: "capstan_on_lb_failure".to_owned(),
        may_go_dark_field: "capstan_may_go_dark".to_owned(),
        bastion_tag: "bastion".to_owned(),
        statuses: vec!["active".to_owned()],
        port: 8080,
        health_check_url: "http://{ip}:{port}/healthz".to_owned(),
        doc_base: "/srv/{application}".to_owned(),
        environment: "prod".to_owned(),
        kind: "generic".to_owned(),
        load_balancer: "none".to_owned(),
        executor: "local".to_owned(),
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(V2, mapping()).await
    }

    pub(crate) async fn with(token: &str, mapping: Mapping) -> Self {
        let netbox = Arc::new(Mutex::new(NetBox { largest_page: 2, ..NetBox::default() }));
        let router = Router::new().fallback(answer).with_state(netbox.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        let settings = Settings {
            url: format!("http://{address}/netbox").parse().expect("a URL"),
            asking: Asking {
                authorization: Some(authorization(token)),
                answer: Duration::from_secs(2),
                ..Asking::default()
            },
            poll: Duration::from_millis(50),
            mapping,
        };
        let names =
            Names { load_balancers: vec!["none".to_owned()], executors: vec!["local".to_owned()] };
        Self { netbox, cmdb: NetboxCmdb::new(&settings, names).expect("a client") }
    }

    pub(crate) fn netbox(&self) -> MutexGuard<'_, NetBox> {
        self.netbox.lock().expect("nobody panicked")
    }

    pub(crate) async fn groups(&self) -> Vec<CmdbGroup> {
        self.cmdb.groups().await.expect("groups answers")
    }
}

async fn answer(
    State(netbox): State<Shared>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    let mut netbox = netbox.lock().expect("nobody panicked");
    let path = request.uri().path().to_owned();
    netbox.asked.push((path.clone(), parameters.clone()));
    if let Some((status, body)) = netbox.fault {
        return (StatusCode::from_u16(status).expect("a status"), body).into_response();
    }
    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if ![format!("Token {V1}"), format!("Bearer {V2}")].iter().any(|good| Some(&**good) == token) {
        let body = json!({"detail": "Invalid token"}).to_string();
        return (StatusCode::FORBIDDEN, body).into_response();
    }
    let all = match path.as_str() {
        "/netbox/api/dcim/devices/" => &netbox.devices,
        "/netbox/api/virtualization/virtual-machines/" => &netbox.machines,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let mut found: Vec<Value> =
        all.iter().filter(|object| matches(object, &parameters)).cloned().collect();
    found.sort_by_key(|object| object["id"].as_i64());
    let body = page(&found, &path, &parameters, &netbox).to_string();
    if netbox.changing > 0 && body.contains("offset=") {
        netbox.changing -= 1;
        netbox.devices.remove(0);
        if netbox.replaces {
            netbox.devices.push(device(100, "web-100", "web-prod"));
        }
    }
    body.into_response()
}

/// As NetBox filters: tags by slug, custom fields of texts loosely.
pub(crate) fn matches(object: &Value, parameters: &Parameters) -> bool {
    parameters.iter().all(|(name, value)| match name.as_str() {
        "tag" => object["tags"].as_array().expect("tags").iter().any(|tag| tag["slug"] == **value),
        "last_updated__gte" => object["last_updated"].as_str().expect("a time") >= value.as_str(),
        "limit" | "offset" | "ordering" | "exclude" => true,
        _ => {
            let field = name.strip_prefix("cf_").expect("a filter that NetBox has");
            let text = object["custom_fields"][field].as_str();
            text.is_some_and(|text| text.contains(value.as_str()))
        }
    })
}

pub(crate) fn page(found: &[Value], path: &str, parameters: &Parameters, netbox: &NetBox) -> Value {
    let number = |name: &str| {
        let given = parameters.iter().find(|(given, _)| given == name);
        given.map(|(_, value)| value.parse::<usize>().expect("a number"))
    };
    let limit = number("limit").unwrap_or(50).min(netbox.largest_page);
    let offset = if netbox.repeats { 0 } else { number("offset").unwrap_or(0).min(found.len()) };
    let end = (offset + limit).min(found.len());
    let next = (end < found.len()).then(|| {
        let kept = parameters.iter().filter(|(name, _)| name != "limit" && name != "offset");
        let kept: Vec<String> = kept.map(|(name, value)| format!("&{name}={value}")).collect();
        let kept = kept.concat();
        // As behind a proxy that does not say for whom it asks.
        format!("http://netbox.internal:8001{path}?limit={limit}&offset={end}{kept}")
    });
    json!({"count": found.len(), "next": next, "previous": null, "results": found[offset..end]})
}

pub(crate) fn nested(id: i64, name: &str) -> Value {
    let slug = name.to_lowercase();
    json!({"id": id, "url": format!("http://netbox.internal:8001/api/x/{id}/"), "display": name,
        "name": name, "slug": slug, "description": ""})
}

/// What devices and virtual machines have in common.
fn object(id: i64, name: &str, group: &str) -> Value {
    let address = json!({"id": id, "url": "http://netbox.internal:8001/api/ipam/ip-addresses/1/",
        "display": format!("10.0.0.{id}/24"), "family": {"value": 4, "label": "IPv4"},
        "address": format!("10.0.0.{id}/24"), "description": ""});
    json!({"id": id, "url": "http://netbox.internal:8001/api/", "display": name, "name": name,
        "status": {"value": "active", "label": "Active"}, "site": nested(1, "SH"), "tenant": null,
        "primary_ip": address, "primary_ip4": address, "primary_ip6": null, "cluster": null,
        "description": "", "comments": "", "local_context_data": null, "config_template": null,
        "tags": [nested(1, "capstan")],
        "custom_fields": {"capstan_group": group, "capstan_application": "web",
            "capstan_port": null, "capstan_root": null, "capstan_pool": null, "owner": ["x"],
            "capstan_scale_out": null, "capstan_on_lb_failure": null, "capstan_may_go_dark": false},
        "created": "2026-01-01T00:00:00.000000Z", "last_updated": "2026-01-02T00:00:00.000000Z"})
}

pub(crate) fn device(id: i64, name: &str, group: &str) -> Value {
    let mut device = object(id, name, group);
    device["device_type"] = nested(1, "R650");
    device["role"] = nested(1, "Server");
    device["rack"] = nested(1, "R1");
    device["face"] = json!({"value": "front", "label": "Front"});
    device
}

pub(crate) fn machine(id: i64, name: &str, group: &str) -> Value {
    let mut machine = object(id, name, group);
    machine["vcpus"] = json!(2.0);
    machine["memory"] = json!(4096);
    machine["cluster"] = nested(1, "C1");
    machine
}
