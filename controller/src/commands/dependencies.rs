//! Cuts outside dependencies off by hand, and restores them.

use axum::http::StatusCode;
use capstan_core::Timestamp;
use capstan_core::view::{CutOff, DependencyView};

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::extract::sentence;
use crate::problem::Problem;

impl App {
    /// Cuts a dependency off: no call to it is made from here on.
    pub(crate) async fn cut_off(
        &self,
        caller: &Caller,
        name: &str,
        reason: Option<String>,
        expires_at: Option<Timestamp>,
    ) -> Result<DependencyView, Problem> {
        let until = expires_at.map(|at| format!("until {at}: ")).unwrap_or_default();
        let detail = format!("{until}{}", reason.clone().unwrap_or_default());
        let deed = deed(caller, "dependency.cut_off", name, detail);
        let result = self.cut_off_now(&deed, name, reason, expires_at).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn cut_off_now(
        &self,
        deed: &Deed<'_>,
        name: &str,
        reason: Option<String>,
        expires_at: Option<Timestamp>,
    ) -> Result<DependencyView, Problem> {
        let reason = sentence("reason", reason)?;
        let now = self.store.now();
        if let Some(at) = expires_at.filter(|at| *at <= now) {
            return Err(Problem::invalid("expires_at", at, "an instant that is still to come"));
        }
        let cut = CutOff { by: deed.actor.to_owned(), reason, since: now, expires_at };
        self.switch(deed, name, Some(cut)).await
    }

    /// Restores a dependency: it is called again.
    pub(crate) async fn restore(
        &self,
        caller: &Caller,
        name: &str,
        reason: Option<String>,
    ) -> Result<DependencyView, Problem> {
        let detail = reason.clone().unwrap_or_default();
        let deed = deed(caller, "dependency.restore", name, detail);
        let result = match reason.map(|reason| sentence("reason", Some(reason))).transpose() {
            Ok(_) => self.switch(&deed, name, None).await,
            Err(problem) => Err(problem),
        };
        self.audited_unless_accepted(deed, result).await
    }

    async fn switch(
        &self,
        deed: &Deed<'_>,
        name: &str,
        cut: Option<CutOff>,
    ) -> Result<DependencyView, Problem> {
        if let Some(view) = self.store.dependency_switch(name, cut, Some(deed.accepted())).await? {
            return Ok(view);
        }
        let known: Vec<String> =
            self.store.dependencies().await?.into_iter().map(|view| view.name).collect();
        let known =
            if known.is_empty() { "there is none yet".to_owned() } else { known.join(", ") };
        let detail = format!("there is no dependency {name}; known are: {known}");
        Err(Problem::new(StatusCode::NOT_FOUND, "dependency_unknown", detail))
    }
}

fn deed<'a>(caller: &'a Caller, action: &'a str, name: &str, detail: String) -> Deed<'a> {
    Deed {
        actor: &caller.name,
        action,
        kind: "dependency",
        subject: name.chars().take(200).collect(),
        deployment: None,
        detail,
    }
}
