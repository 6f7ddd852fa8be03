//! The demo as its users talk to it.

use std::process::Command;
use std::time::Instant;

use capstan_core::event::Event;
use capstan_core::record::Service;
use capstan_core::view::{
    DeploymentBrief, DeploymentView, GroupView, Page, ServerView, TargetView,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Demo, LOOK_EVERY, PATIENCE};

impl Demo {
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self
            .client
            .request(method, format!("{}/api/v1/{path}", self.url))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        serde_json::from_value(body).unwrap()
    }

    /// Sends a request with an idempotency key; `None` when it is not answered.
    pub(crate) async fn post_once(
        &self,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Option<(StatusCode, Value)> {
        let request = self
            .client
            .post(format!("{}/api/v1/{path}", self.url))
            .bearer_auth(&self.token)
            .header("Idempotency-Key", key)
            .json(body);
        let answer = request.send().await.ok()?;
        let status = answer.status();
        Some((status, answer.json().await.ok()?))
    }

    /// Sends a request again that was cut off by a kill -9. Over a server it counts as under way until others
    /// have taken over from the process that had it.
    pub(crate) async fn repeat(&self, path: &str, key: &str, body: &Value) -> (StatusCode, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.post_once(path, key, body).await.unwrap();
            let is_under_way = answer["code"] == "idempotency_running";
            if !is_under_way || self.is_on_file() {
                return (status, answer);
            }
            assert!(Instant::now() < deadline, "{answer}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn ready(&self) -> (StatusCode, Value) {
        let answer = self.client.get(format!("{}/readyz", self.url)).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    pub(crate) async fn metrics(&self) -> String {
        let answer = self.client.get(format!("{}/metrics", self.url)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    pub(crate) async fn group(&self) -> GroupView {
        let page: Page<GroupView> = self.get("groups").await;
        page.items.into_iter().next().unwrap()
    }

    pub(crate) async fn servers(&self) -> Vec<ServerView> {
        let group = self.group().await.id;
        let page: Page<ServerView> = self.get(&format!("groups/{group}/servers")).await;
        page.items
    }

    /// Waits until a server is in service.
    pub(crate) async fn wait_for_service(&self, hostname: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let servers = self.servers().await;
            let server = servers.iter().find(|row| row.hostname == hostname).unwrap();
            if server.service == Service::In {
                return;
            }
            assert!(Instant::now() < deadline, "{server:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn create(&self, version: &str, config: Value) -> String {
        let group = self.group().await.id;
        let body = json!({"group": group, "package": version, "config": config, "start": true});
        let (status, answer) = self.call(Method::POST, "deployments", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The same for a process that may die meanwhile: `None` when it does not answer.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Option<(StatusCode, Value)> {
        let url = format!("{}/api/v1/{path}", self.url);
        let request = self.client.request(method, url).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.ok()?;
        let status = answer.status();
        let body = answer.json().await.ok()?;
        (!status.is_server_error()).then_some((status, body))
    }

    /// Sends an archive; `None` when it is not answered.
    pub(crate) async fn upload(&self, version: &str, bytes: Vec<u8>) -> Option<StatusCode> {
        let application = "web";
        let url = format!("{}/api/v1/packages/{application}/{version}", self.url);
        let answer = self.client.put(url).bearer_auth(&self.token).body(bytes).send().await.ok()?;
        Some(answer.status())
    }

    /// The instance's process dies.
    pub(crate) fn kill_instance(&self, hostname: &str) {
        let path = self.data().join("host").join(hostname).join("run/pid");
        let pid = std::fs::read_to_string(path).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    }

    /// How often each instance was restarted by a hook.
    pub(crate) async fn restarts(&self) -> Vec<usize> {
        let servers = self.servers().await;
        let count = |row: &ServerView| {
            let path = self.data().join("host").join(&row.hostname).join("shared/restarts.log");
            std::fs::read_to_string(path).unwrap().lines().count()
        };
        servers.iter().map(count).collect()
    }

    /// From a release that has just been started to its normal batches.
    pub(crate) async fn click_past_the_bastion(&self, deployment: &str) {
        self.wait_for(deployment, "SMOKE_SUCCESS").await;
        self.act(deployment, "bake").await;
        self.wait_for(deployment, "BAKE_SUCCESS").await;
        self.act(deployment, "rollout").await;
    }

    pub(crate) async fn act(&self, deployment: &str, action: &str) {
        let path = format!("deployments/{deployment}/{action}");
        let (status, answer) = self.call(Method::POST, &path, Some(json!({}))).await;
        assert!(status.is_success(), "{action}: {status} {answer}");
    }

    /// Rolls the group back and gives the new deployment.
    pub(crate) async fn roll_back(&self) -> String {
        let path = format!("groups/{}/rollback", self.group().await.id);
        let (status, answer) = self.call(Method::POST, &path, Some(json!({}))).await;
        assert!(status.is_success(), "rollback: {status} {answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn deployment(&self, id: &str) -> DeploymentView {
        self.get(&format!("deployments/{id}")).await
    }

    pub(crate) async fn newest(&self) -> DeploymentBrief {
        let page: Page<DeploymentBrief> = self.get("deployments?limit=1").await;
        page.items.into_iter().next().unwrap()
    }

    pub(crate) async fn targets(&self, id: &str) -> Vec<TargetView> {
        let page: Page<TargetView> = self.get(&format!("deployments/{id}/targets?limit=500")).await;
        page.items
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(0, |event| event.seq);
            let page: Page<Event> =
                self.get(&format!("deployments/{id}/events?after={after}&limit=500")).await;
            if page.items.is_empty() {
                return events;
            }
            events.extend(page.items);
        }
    }

    /// Waits for a shown status; fails at once when the deployment has ended otherwise.
    pub(crate) async fn wait_for(&self, id: &str, shown: &str) -> DeploymentView {
        self.wait_until(id, |view| view.shown_status == shown).await
    }

    /// Waits until a deployment is as wanted; fails at once when it has ended otherwise.
    pub(crate) async fn wait_until(
        &self,
        id: &str,
        wanted: impl Fn(&DeploymentView) -> bool,
    ) -> DeploymentView {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.deployment(id).await;
            if wanted(&view) {
                return view;
            }
            let ended = view.status.is_final();
            if ended || Instant::now() > deadline {
                let targets = self.targets(id).await;
                let told: Vec<_> = targets
                    .iter()
                    .map(|row| (&row.hostname, row.status.word(), &row.message))
                    .collect();
                panic!("it is not as wanted, it is {}: {told:#?}", view.shown_status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What each instance answers on its health URL: its version, if it is healthy.
    pub(crate) async fn answering(&self) -> Vec<(String, Option<String>)> {
        let mut answers = Vec::new();
        for server in self.servers().await {
            let url = format!("http://127.0.0.1:{}/healthz", server.port);
            let version = match self.client.get(url).send().await {
                Ok(answer) if answer.status().is_success() => answer
                    .headers()
                    .get("x-capstan-version")
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
                Ok(_) | Err(_) => None,
            };
            answers.push((server.hostname, version));
        }
        answers
    }

    /// Every instance answers with this version.
    pub(crate) async fn assert_all_run(&self, version: &str) {
        for (hostname, answer) in self.answering().await {
            assert_eq!(answer.as_deref(), Some(version), "{hostname}");
        }
    }
}
