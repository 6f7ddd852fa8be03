//! The REST API as a person's tool uses it: it asks whichever controller answers, and asks for a change
//! again under the same key until it is told what became of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use capstan_core::event::Event;
use capstan_core::view::{DeploymentView, Page};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How long one controller has to answer. The slowest honest answer takes about this long: a refresh of
/// the CMDB's record, and a look at the servers.
const ONE_ANSWER: Duration = Duration::from_secs(10);
/// How long all of them together may be away.
const PATIENCE: Duration = Duration::from_mins(6);
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What is asked, and of whom.
#[derive(Debug)]
pub(crate) struct Api {
    urls: Vec<String>,
    token: String,
    client: reqwest::Client,
    next: AtomicUsize,
    /// Answers that Capstan may not give whatever happens to it.
    pub(crate) bugs: Mutex<Vec<String>>,
    /// How often somebody had to be asked again.
    pub(crate) asked_again: AtomicUsize,
}

impl Api {
    pub(crate) fn new(urls: Vec<String>, token: String) -> Self {
        let client = reqwest::Client::builder().timeout(ONE_ANSWER).no_proxy().build().unwrap();
        Self {
            urls,
            token,
            client,
            next: AtomicUsize::new(0),
            bugs: Mutex::default(),
            asked_again: AtomicUsize::new(0),
        }
    }

    /// A change, made once however often it must be asked for.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let key = uuid::Uuid::now_v7().to_string();
        self.ask(Method::POST, path, Some((&key, body))).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let key = uuid::Uuid::now_v7().to_string();
        self.ask(Method::PATCH, path, Some((&key, body))).await
    }

    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.ask(Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        serde_json::from_value(body).unwrap()
    }

    pub(crate) async fn deployment(&self, id: &str) -> DeploymentView {
        self.get(&format!("deployments/{id}")).await
    }

    /// Everything that a list holds.
    pub(crate) async fn all<T: serde::de::DeserializeOwned>(&self, path: &str) -> Vec<T> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page: Page<T> = self.get(&format!("{path}{mark}limit=500{cursor}")).await;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }

    /// The log of a deployment.
    pub(crate) async fn events(&self, id: &str) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(0, |event| event.seq);
            let path = format!("deployments/{id}/events?after={after}&limit=500");
            let page: Page<Event> = self.get(&path).await;
            if page.items.is_empty() {
                return events;
            }
            events.extend(page.items);
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        change: Option<(&str, &Value)>,
    ) -> (StatusCode, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let url = &self.urls[self.next.fetch_add(1, Ordering::Relaxed) % self.urls.len()];
            let request = self.client.request(method.clone(), format!("{url}/api/v1/{path}"));
            let mut request = request.bearer_auth(&self.token);
            if let Some((key, body)) = change {
                request = request.header("Idempotency-Key", key).json(body);
            }
            let told = match answer(request).await {
                Ok((status, body)) if is_told(status, &body) => return (status, body),
                Ok((status, body)) => {
                    let told = format!("{method} {path}: {status} {body}");
                    if is_a_bug(status) {
                        println!("{told}");
                        self.bugs.lock().unwrap().push(told.clone());
                    }
                    told
                }
                Err(error) => format!("{error:?}"),
            };
            assert!(Instant::now() < deadline, "{method} {path}: nobody answers: {told}");
            self.asked_again.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<(StatusCode, Value)> {
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// Whether this answer says what became of it; else it is asked for again.
fn is_told(status: StatusCode, body: &Value) -> bool {
    body["code"] != "idempotency_running" && !status.is_server_error()
}

/// 503 means try again, and every other answer of that kind a bug.
fn is_a_bug(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE
}
