//! Whom webhooks call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// How long a call may be waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn id(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        body["id"].as_str().expect("an id").to_owned()
    }
}

/// Who is called: answers as the test says, 200 in the end.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    got: Arc<Mutex<Vec<Got>>>,
    /// Statuses of the next answers; 0: none comes.
    answers: Arc<Mutex<Vec<u16>>>,
    /// The status of every answer, while it is set.
    always: Arc<Mutex<Option<u16>>>,
    /// Calls with all of these in their bodies are refused, while there are any.
    refused: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub(crate) async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().expect("not poisoned").clone()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.got().iter().map(Got::id).collect()
    }

    pub(crate) fn will_answer(&self, statuses: &[u16]) {
        *self.answers.lock().expect("not poisoned") = statuses.to_vec();
    }

    pub(crate) fn answers_always(&self, status: Option<u16>) {
        *self.always.lock().expect("not poisoned") = status;
    }

    pub(crate) fn refuses(&self, parts: &[&str]) {
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        *self.refused.lock().expect("not poisoned") = parts;
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&[Got]) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !is_so(&self.got()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}: {:#?}", self.ids());
    }
}

async fn answer(
    State(receiver): State<Receiver>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let is_refused = {
        let refused = receiver.refused.lock().expect("not poisoned");
        !refused.is_empty() && refused.iter().all(|part| body.contains(part))
    };
    let got = Got { path: uri.path().to_owned(), headers, body };
    receiver.got.lock().expect("not poisoned").push(got);
    if is_refused {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    let next = {
        let mut answers = receiver.answers.lock().expect("not poisoned");
        if answers.is_empty() { None } else { Some(answers.remove(0)) }
    };
    let always = *receiver.always.lock().expect("not poisoned");
    match next.or(always).unwrap_or(200) {
        0 => std::future::pending().await,
        302 => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        status => StatusCode::from_u16(status).expect("a status").into_response(),
    }
}
