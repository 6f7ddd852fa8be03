//! Webhooks: who is told of events by HTTP.

use axum::http::StatusCode;
use capstan_core::message::EventFilter;
use capstan_core::view::WebhookView;
use capstan_core::{DeploymentId, WebhookId};
use capstan_store::{NewWebhook, WebhookChange};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::{Caller, new_secret};
use crate::problem::Problem;

/// What a webhook wants that does not say.
const EVENTS: &str = "deployment.*";

/// A webhook to make. It is told of what happens from then on.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookRequest {
    /// Its name, 1 to 100 characters; no two have the same.
    name: String,
    /// What is called: http or https, a public address unless the configuration allows others.
    url: String,
    /// Which events: types, or what types begin with and a star, with commas between them;
    /// `deployment.*` when left out.
    #[serde(default)]
    events: Option<String>,
}

/// What is to become of a webhook; what is left out stays.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookChangeRequest {
    /// Another URL.
    #[serde(default)]
    url: Option<String>,
    /// Other events.
    #[serde(default)]
    events: Option<String>,
    /// `false`: it is not called; `true`: it is, at once, and told what it has missed.
    #[serde(default)]
    enabled: Option<bool>,
}

/// Sends the events of a deployment again.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayRequest {
    /// The deployment.
    deployment: DeploymentId,
    /// Those after this place in its log; all when left out.
    #[serde(default)]
    #[schema(minimum = 0)]
    after: Option<i64>,
}

/// What is sent again.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ReplayView {
    /// The deployment.
    pub(crate) deployment: DeploymentId,
    /// Its events after this place.
    pub(crate) after: i64,
}

impl App {
    /// Makes a webhook. The answer has its secret, this once.
    pub(crate) async fn webhook_make(
        &self,
        caller: &Caller,
        request: WebhookRequest,
    ) -> Result<WebhookView, Problem> {
        let detail = format!("{} for {}", request.name, place(&request.url));
        let id = WebhookId(Uuid::now_v7());
        let deed = deed(caller, "webhook.create", id.to_string(), detail);
        let result = self.webhook_make_now(&deed, id, request).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn webhook_make_now(
        &self,
        deed: &Deed<'_>,
        id: WebhookId,
        request: WebhookRequest,
    ) -> Result<WebhookView, Problem> {
        let name = request.name.trim().to_owned();
        if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
            return Err(Problem::invalid("name", request.name, "1 to 100 printable characters"));
        }
        let secret = format!("whsec_{}", new_secret());
        let new = NewWebhook {
            id,
            name: name.clone(),
            url: self.callable(request.url)?,
            secret: secret.clone(),
            events: events(request.events.unwrap_or_else(|| EVENTS.to_owned()))?,
            created_by: deed.actor.to_owned(),
        };
        let Some(view) = self.store.webhook_create(new, Some(deed.accepted())).await? else {
            let detail = format!("there is a webhook {name} already");
            return Err(Problem::new(StatusCode::CONFLICT, "webhook_exists", detail));
        };
        self.webhooks_changed.notify_one();
        Ok(WebhookView { secret: Some(secret), ..view })
    }

    /// Changes a webhook.
    pub(crate) async fn webhook_change(
        &self,
        caller: &Caller,
        id: WebhookId,
        request: WebhookChangeRequest,
    ) -> Result<WebhookView, Problem> {
        let detail = match (&request.url, request.enabled) {
            (Some(url), _) => format!("for {}", place(url)),
            (None, Some(true)) => "on".to_owned(),
            (None, Some(false)) => "off".to_owned(),
            (None, None) => String::new(),
        };
        let deed = deed(caller, "webhook.change", id.to_string(), detail);
        let result = self.webhook_change_now(&deed, id, request).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn webhook_change_now(
        &self,
        deed: &Deed<'_>,
        id: WebhookId,
        request: WebhookChangeRequest,
    ) -> Result<WebhookView, Problem> {
        let WebhookChangeRequest { url, events: wanted, enabled } = request;
        if url.is_none() && wanted.is_none() && enabled.is_none() {
            let allowed = "url, events or enabled is needed";
            return Err(Problem::missing("enabled", allowed));
        }
        let change = WebhookChange {
            url: url.map(|url| self.callable(url)).transpose()?,
            events: wanted.map(events).transpose()?,
            enabled,
        };
        let view = self.store.webhook_change(id, change, Some(deed.accepted())).await?;
        self.webhooks_changed.notify_one();
        view.ok_or_else(|| unknown(id))
    }

    /// Removes a webhook, and what is known of its calls.
    pub(crate) async fn webhook_remove(
        &self,
        caller: &Caller,
        id: WebhookId,
    ) -> Result<(), Problem> {
        let deed = deed(caller, "webhook.delete", id.to_string(), String::new());
        let result = match self.store.webhook_delete(id, Some(deed.accepted())).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(unknown(id)),
            Err(error) => Err(error.into()),
        };
        self.webhooks_changed.notify_one();
        self.audited_unless_accepted(deed, result).await
    }

    /// Sends a webhook the events of a deployment again.
    pub(crate) async fn webhook_replay(
        &self,
        caller: &Caller,
        id: WebhookId,
        request: ReplayRequest,
    ) -> Result<ReplayView, Problem> {
        let after = request.after.unwrap_or(0);
        let deployment = request.deployment;
        let detail = format!("deployment {deployment} after {after}");
        let deed = Deed {
            deployment: Some(deployment),
            ..deed(caller, "webhook.replay", id.to_string(), detail)
        };
        let result = self.webhook_replay_now(&deed, id, deployment, after).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn webhook_replay_now(
        &self,
        deed: &Deed<'_>,
        id: WebhookId,
        deployment: DeploymentId,
        after: i64,
    ) -> Result<ReplayView, Problem> {
        if after < 0 {
            return Err(Problem::invalid("after", after, "0 or a place in the log"));
        }
        self.webhook(id).await?;
        if !self.store.webhook_replay(id, deployment, after, Some(deed.accepted())).await? {
            return Err(Problem::unknown("deployment", "deployment_unknown", deployment));
        }
        Ok(ReplayView { deployment, after })
    }

    /// A webhook that the path names.
    pub(crate) async fn webhook(&self, id: WebhookId) -> Result<WebhookView, Problem> {
        let webhook = self.store.webhook(id).await?;
        webhook.map(|webhook| webhook.view).ok_or_else(|| unknown(id))
    }

    fn callable(&self, url: String) -> Result<String, Problem> {
        match self.ports.webhooks.check(&url) {
            Ok(()) => Ok(url),
            Err(why) => Err(Problem::invalid("url", url, &why)),
        }
    }
}

fn unknown(id: WebhookId) -> Problem {
    Problem::unknown("webhook", "webhook_unknown", id)
}

fn events(text: String) -> Result<String, Problem> {
    match EventFilter::parse(&text) {
        Ok(filter) => Ok(filter.to_string()),
        Err(why) => {
            let allowed = format!("{why}; types of events like deployment.status, or deployment.*");
            Err(Problem::invalid("events", text, &allowed))
        }
    }
}

/// Where a webhook goes, for the audit: the path and what stands before the host may be secrets.
fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}")
}

fn deed<'a>(caller: &'a Caller, action: &'a str, subject: String, detail: String) -> Deed<'a> {
    Deed { actor: &caller.name, action, kind: "webhook", subject, deployment: None, detail }
}
