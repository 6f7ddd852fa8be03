//! Who asked for what, with which answer: written for every write, refused ones too.

use capstan_core::DeploymentId;
use capstan_store::NewAudit;

use crate::app::App;
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

impl App {
    /// Writes down a deed and how it went, and hands its result on.
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
            Err(mut problem) => {
                let detail = if deed.detail.is_empty() {
                    problem.detail.clone()
                } else {
                    format!("{}: {}", deed.detail, problem.detail)
                };
                self.note(Deed { detail, ..deed }, problem.code).await;
                problem.is_audited = true;
                Err(problem)
            }
        }
    }

    /// Writes down a deed with this answer. What was done stays done when the audit cannot be
    /// written; the log then has it alone.
    pub(crate) async fn note(&self, deed: Deed<'_>, answer: &str) {
        let Deed { actor, action, kind, subject, deployment, detail } = deed;
        tracing::info!(actor, action, kind, subject, answer, detail, "write");
        let audit = NewAudit {
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject_kind: kind,
            subject,
            deployment,
            answer: answer.to_owned(),
            detail,
        };
        if let Err(error) = self.store.audit(audit).await {
            tracing::error!(error = chain(&error), actor, action, "the audit could not be written");
        }
    }
}
