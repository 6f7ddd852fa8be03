//! What the matrix plays on: a world with something for every call, and the calls as described.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, Request};
use capstan_controller::Settings;
use capstan_core::OrderKey;
use capstan_store::OutputChunk;
use serde_json::{Map, Value, json};

use crate::fakes::{FakeInbox, sha256};
use crate::world::{Reply, World, id};

/// Largest body that the world of these tests takes.
pub(super) const LARGEST: usize = 4096;
/// Content of the archive of web 1.0.0.
pub(super) const ARCHIVE: &[u8] = b"web 1.0.0";

/// One method of one path, as the interface describes it.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) operation: Value,
}

/// A world in which every call has something to work on, and the names of that.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) document: Value,
    /// Good values of parameters in paths: by schema for ids, else by name.
    values: Map<String, Value>,
}

/// A request in the making.
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) token: Option<String>,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
    /// An `Idempotency-Key`.
    pub(super) key: Option<&'static str>,
}

impl Stage {
    pub(super) async fn set() -> Self {
        let settings = Settings {
            max_body_bytes: LARGEST,
            max_package_bytes: LARGEST as u64,
            ..Settings::default()
        };
        let world = World::with_inbox(settings, Some(Arc::new(FakeInbox))).await;
        for number in 1..=4 {
            world.executor.reports(&format!("web-{number}"), "1.0.0", &sha256(ARCHIVE));
        }
        let ids = world.add_group("web", 4).await;
        world.upload("/api/v1/packages/web/1.0.0", ARCHIVE, None).await.expect(200);
        // Created after the adoption of 1.0.0, so that there is something to roll back to.
        let deployment = id(&world.start(&ids).await).to_owned();
        let first = async |path: String| id(&world.items(&path).await[0]).to_owned();
        let server = first(format!("/api/v1/groups/{}/servers", ids.group)).await;
        let target = first(format!("/api/v1/deployments/{deployment}/targets")).await;
        let chunk = OutputChunk {
            target: target.parse().expect("an id"),
            key: OrderKey(uuid::Uuid::from_u128(1)),
            stage: capstan_core::stage::Stage::Download,
            attempt: 1,
            offset: 0,
            bytes: b"fetching\n".to_vec(),
        };
        world.store.output_append(chunk).await.expect("a store");
        let hook = json!({"name": "chat", "url": "https://example.com/hook"});
        let hook = world.post("/api/v1/webhooks", hook).await.expect(201);
        let values = json!({
            "ApplicationId": ids.application, "GroupId": ids.group, "ServerId": server,
            "DeploymentId": deployment, "TargetId": target,
            "WebhookId": id(&hook),
            "application": "web", "version": "1.0.0", "action": "brake", "name": "cmdb",
        });
        let document = world.get("/api/openapi.json").await.expect(200);
        let Value::Object(values) = values else { unreachable!("it is one") };
        Self { world, document, values }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        for (path, item) in self.document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let name = operation["operationId"].as_str().expect("a name").to_owned();
                let method = method.to_uppercase().parse().expect("a method");
                let (path, operation) = (path.clone(), operation.clone());
                calls.push(Call { name, method, path, operation });
            }
        }
        assert!(calls.len() >= 29, "{} calls are described", calls.len());
        calls
    }

    /// A schema with its references followed and its null taken away.
    pub(super) fn schema<'a>(&'a self, schema: &'a Value) -> &'a Value {
        if let Some(name) = reference(schema) {
            return self.schema(&self.document["components"]["schemas"][name]);
        }
        match schema["oneOf"].as_array().and_then(|any| any.iter().find(|it| it["type"] != "null"))
        {
            Some(schema) => self.schema(schema),
            None => schema,
        }
    }

    /// The schema of a call's JSON body.
    pub(super) fn body_schema<'a>(&'a self, call: &'a Call) -> Option<&'a Value> {
        let content = &call.operation["requestBody"]["content"]["application/json"];
        (!content.is_null()).then(|| self.schema(&content["schema"]))
    }

    /// The good value of a parameter in a path.
    pub(super) fn value(&self, parameter: &Value) -> &str {
        let name = parameter["name"].as_str().expect("a name");
        let key = reference(&parameter["schema"]).unwrap_or(name);
        let value = self.values.get(key).and_then(Value::as_str);
        value.unwrap_or_else(|| panic!("give the parameter {name} a good value in Stage::set"))
    }

    pub(super) fn good_body(&self, call: &Call) -> Value {
        match call.name.as_str() {
            "applications_create" => json!({"name": "shop"}),
            "dependencies_change" => json!({"cut_off": true, "reason": "it is slow"}),
            "deployments_act" | "groups_rollback" | "groups_sync" | "messages_replay" => json!({}),
            "deployments_create" => json!({"group": self.values["GroupId"], "package": "1.1.0"}),
            "groups_preview" => json!({"package": "1.1.0"}),
            "packages_register" => json!({
                "application": "web", "version": "2.0.0", "sha256": sha256(b"2.0.0"),
                "location": "https://pkg.example/web-2.0.0.tar.gz",
            }),
            "packages_mark" => json!({"bad": true, "reason": "it leaks"}),
            "webhooks_create" => json!({"name": "mail", "url": "https://example.com/mail"}),
            "webhooks_change" => json!({"events": "*"}),
            "webhooks_replay" => json!({"deployment": self.values["DeploymentId"]}),
            "servers_change" => json!({"pulled_out": true, "reason": "its disk is dying"}),
            name => panic!("give the call {name} a good body in Stage::good_body"),
        }
    }

    /// A good request.
    pub(super) fn good(&self, call: &Call) -> Asked {
        let mut path = call.path.clone();
        for parameter in parameters(call, "path") {
            let place = format!("{{{}}}", parameter["name"].as_str().expect("a name"));
            path = path.replace(&place, self.value(parameter));
        }
        let (kind, body) = match self.body_schema(call) {
            Some(_) => ("application/json", self.good_body(call).to_string().into_bytes()),
            None if call.operation["requestBody"].is_null() => ("", Vec::new()),
            None => ("application/gzip", ARCHIVE.to_vec()),
        };
        Asked { path, token: Some(format!("Bearer {}", self.world.token)), kind, body, key: None }
    }

    pub(super) async fn send(&self, call: &Call, asked: Asked) -> Reply {
        let mut request = Request::builder().method(&call.method).uri(asked.path);
        if let Some(token) = asked.token {
            request = request.header(AUTHORIZATION, token);
        }
        if !asked.kind.is_empty() {
            request = request.header(CONTENT_TYPE, asked.kind);
        }
        if let Some(key) = asked.key {
            request = request.header("idempotency-key", key);
        }
        self.world.send(request.body(Body::from(asked.body)).expect("a request")).await
    }

    /// Sends what must be refused with one of these statuses; gives the problem.
    pub(super) async fn refused(&self, call: &Call, asked: Asked, statuses: &[u16]) -> Value {
        let label = format!("{} {}: {}", call.name, asked.path, short(&asked.body));
        let reply = self.send(call, asked).await;
        let status = reply.status.as_u16();
        assert!(statuses.contains(&status), "{label}: {status} {}", reply.text());
        assert_described(call, status);
        let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
        reply.problem(status, &code)
    }

    /// Sends a body that must be refused as data, naming a field; gives the problem.
    pub(super) async fn refused_body(&self, call: &Call, body: &Value, field: &str) -> Value {
        let asked = Asked { body: body.to_string().into_bytes(), ..self.good(call) };
        let problem = self.refused(call, asked, &[422]).await;
        assert_eq!(problem["code"], "invalid", "{}: {problem}", call.name);
        assert_eq!(problem["field"], field, "{}: {problem}", call.name);
        problem
    }

    /// Walks all calls; after each, everything must be as before.
    pub(super) async fn walk(&self, check: impl AsyncFn(&Call)) {
        let before = self.world.dump().await;
        for call in self.calls() {
            check(&call).await;
            self.world.dump().await.assert_is(&before, &call.name);
        }
    }
}

pub(super) fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

pub(super) fn parameters<'a>(
    call: &'a Call,
    place: &'static str,
) -> impl Iterator<Item = &'a Value> {
    let all = call.operation["parameters"].as_array();
    all.into_iter().flatten().filter(move |parameter| parameter["in"] == place)
}

fn short(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}

/// Every status that a call answers is in its description.
#[track_caller]
pub(super) fn assert_described(call: &Call, status: u16) {
    let described = &call.operation["responses"][status.to_string()];
    assert!(described.is_object(), "{} does not describe {status}", call.name);
}
