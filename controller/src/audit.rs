//! Who asked for what, with which answer: written for every write, refused ones too.

use capstan_core::DeploymentId;
use capstan_store::{Asked, NewAudit};

use crate::app::App;
use crate::auth::Caller;
use crate::problem::{Problem, chain};

/// Something that a person asked for.
#[derive(Debug, Clone)]
pub(crate) struct Deed<'a> {
    /// Who.
    pub(crate) actor: &'a str,
    /// What, for example `deployment.bake`.
    pub(crate) action: &'a str,
    /// Kind of the subject, for example `group`.
    pub(crate) kind: &'static str,
    /// Id or name of the subject.
    pub(crate) subject: String,
    /// The deployment concerned, if there is one.
    pub(crate) deployment: Option<DeploymentId>,
    /// Details, for people.
    pub(crate) detail: String,
}

impl Deed<'_> {
    /// The deed as whoever decides it writes it down, if it is accepted.
    pub(crate) fn asked(&self, caller: &Caller) -> Asked {
        Asked { request: caller.request.clone(), audit: Some(self.accepted()) }
    }

    /// The same for what Capstan does by itself.
    pub(crate) fn asked_by_nobody(&self) -> Asked {
        Asked { request: None, audit: Some(self.accepted()) }
    }

    /// The entry that the store writes together with what the deed does.
    pub(crate) fn accepted(&self) -> NewAudit {
        self.clone().entry("accepted")
    }

    fn entry(self, answer: &str) -> NewAudit {
        NewAudit {
            actor: self.actor.to_owned(),
            action: self.action.to_owned(),
            subject_kind: self.kind,
            subject: self.subject,
            deployment: self.deployment,
            answer: answer.to_owned(),
            detail: self.detail,
        }
    }

    fn log(&self, answer: &str) {
        let Self { actor, action, kind, subject, detail, .. } = self;
        tracing::info!(actor, action, kind, subject, answer, detail, "write");
    }
}

impl App {
    /// Writes down how a deed went that writes nothing of its own, and hands its result on.
    pub(crate) async fn audited<T>(
        &self,
        deed: Deed<'_>,
        result: Result<T, Problem>,
    ) -> Result<T, Problem> {
        match result {
            Ok(value) => {
                self.note(deed, "accepted").await;
                Ok(value)
            }
            Err(problem) => Err(self.audited_refusal(deed, problem).await),
        }
    }

    /// The same for a deed that the store wrote down with what it did, if it was accepted.
    pub(crate) async fn audited_unless_accepted<T>(
        &self,
        deed: Deed<'_>,
        result: Result<T, Problem>,
    ) -> Result<T, Problem> {
        match result {
            Ok(value) => {
                deed.log("accepted");
                Ok(value)
            }
            Err(problem) => Err(self.audited_refusal(deed, problem).await),
        }
    }

    async fn audited_refusal(&self, deed: Deed<'_>, mut problem: Problem) -> Problem {
        let detail = if deed.detail.is_empty() {
            problem.detail.clone()
        } else {
            format!("{}: {}", deed.detail, problem.detail)
        };
        self.note(Deed { detail, ..deed }, problem.code).await;
        problem.is_audited = true;
        problem
    }

    /// Writes down a deed with this answer. What was done stays done when the audit cannot be
    /// written; the log then has it alone.
    pub(crate) async fn note(&self, deed: Deed<'_>, answer: &str) {
        deed.log(answer);
        let (actor, action) = (deed.actor, deed.action);
        if let Err(error) = self.store.audit(deed.clone().entry(answer)).await {
            tracing::error!(error = chain(&error), actor, action, "the audit could not be written");
        }
    }
}
