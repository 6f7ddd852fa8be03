//! Why a command of the client did not succeed, what is said of it, and its exit code.

use std::fmt::Write as _;

use capstan_core::DeploymentId;
use capstan_core::action::Action;
use serde::Deserialize;

use super::table::clean;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Error {
    /// What was asked for cannot be asked like this.
    Usage(String),
    /// A name stands for nothing, or for several things.
    Named(String),
    /// Capstan does not answer.
    NoAnswer {
        /// Where it was asked.
        server: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Capstan says no.
    Refused(Box<Refusal>),
    /// An answer that makes no sense.
    Strange(String),
    /// Something on this machine.
    Local {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// An answer that is no success: the problem, and its text as it came.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// What the answer says.
    pub(crate) problem: Problem,
    /// The answer as it came, if it is a problem document.
    pub(crate) document: Option<String>,
}

/// A problem document (RFC 9457), as far as the client reads it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    title: String,
    detail: String,
    /// Stable word for programs.
    pub(crate) code: String,
    deployment: Option<DeploymentId>,
    deployment_status: Option<String>,
    deployment_shown_status: Option<String>,
    allowed_actions: Option<Vec<Action>>,
}

/// Exit code for everything that went wrong on the way.
pub(crate) const FAILED: u8 = 4;
/// Exit code when the present state does not allow what was asked (409).
pub(crate) const NOT_NOW: u8 = 5;
/// Status of an answer that the present state does not allow.
const CONFLICT: u16 = 409;

impl Refusal {
    /// Reads an answer that is no success.
    pub(crate) fn new(status: u16, text: String) -> Self {
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) if !problem.title.is_empty() => {
                Self { status, problem, document: Some(text) }
            }
            Ok(_) | Err(_) => {
                let detail: String = text.trim().chars().take(300).collect();
                let title = "The answer does not come from Capstan's API".to_owned();
                let problem = Problem { title, detail, ..Problem::default() };
                Self { status, problem, document: None }
            }
        }
    }
}

impl Error {
    /// The exit code of the program.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(refusal) if refusal.status == CONFLICT => NOT_NOW,
            Self::Usage(_)
            | Self::Named(_)
            | Self::NoAnswer { .. }
            | Self::Refused(_)
            | Self::Strange(_)
            | Self::Local { .. } => FAILED,
        }
    }

    /// Whether nobody reads what is written any more, as in `capstan … | head`.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Local { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// An error of this machine.
    pub(crate) fn local(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        |source| Self::Local { what, source }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(text) | Self::Named(text) | Self::Strange(text) => f.write_str(text),
            Self::NoAnswer { server, source } => {
                write!(f, "Capstan at {server} does not answer: {}", innermost(source))?;
                f.write_str("\n  Is it running there? --server or CAPSTAN_SERVER names another.")
            }
            Self::Refused(refusal) => f.write_str(&refusal.to_string()),
            Self::Local { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Problem { title, detail, code, .. } = &self.problem;
        let code = if code.is_empty() { String::new() } else { format!(" {code}") };
        let mut text = format!("{} ({}{code})", clean(title), self.status);
        for line in detail.lines() {
            write!(text, "\n  {}", clean(line))?;
        }
        if self.status == 401 {
            text.push_str(
                "\n  Give a token with --token-file, CAPSTAN_TOKEN or CAPSTAN_TOKEN_FILE.",
            );
        }
        if let Some(allowed) = &self.problem.allowed_actions {
            write!(text, "\n  {}", self.problem.allowed_now(allowed))?;
        }
        f.write_str(&text)
    }
}

impl Problem {
    fn allowed_now(&self, allowed: &[Action]) -> String {
        let name = self.deployment.map_or_else(String::new, |id| format!(" {id}"));
        let status = self.deployment_shown_status.as_ref().or(self.deployment_status.as_ref());
        let status = status.map_or_else(String::new, |status| format!(" is {}", clean(status)));
        let words: Vec<&str> = allowed.iter().map(|action| action.word()).collect();
        match words.as_slice() {
            [] => format!("The deployment{name}{status}; nothing can be asked of it any more."),
            words => format!("The deployment{name}{status}; allowed now: {}.", words.join(", ")),
        }
    }
}

/// The error that everything began with: reqwest's own words around it say little.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_what_is_allowed_now() {
        let text = r#"{"type": "urn:capstan:problem:action_not_allowed", "title": "Action not allowed",
            "status": 409, "detail": "bake is refused\u001b[2J", "code": "action_not_allowed",
            "deployment_status": "ROLLING_OUT", "deployment_shown_status": "ROLLOUT_BRAKED",
            "allowed_actions": ["retry", "resume"], "later": 1}"#;
        let error = Error::Refused(Box::new(Refusal::new(409, text.to_owned())));
        assert_eq!(error.exit_code(), NOT_NOW);
        assert_eq!(
            error.to_string(),
            "Action not allowed (409 action_not_allowed)\n  bake is refused\u{fffd}[2J\n  \
             The deployment is ROLLOUT_BRAKED; allowed now: retry, resume."
        );
    }

    #[test]
    fn an_answer_of_somebody_else_is_no_problem_document() {
        let refusal = Refusal::new(502, "<html>Bad Gateway</html>".to_owned());
        assert!(refusal.document.is_none());
        let error = Error::Refused(Box::new(refusal));
        assert_eq!(error.exit_code(), FAILED);
        assert!(error.to_string().contains("(502)\n  <html>Bad Gateway"), "{error}");
    }
}
