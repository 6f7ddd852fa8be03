//! The one function that decides: what follows from an input.
//!
//! `decide` changes a [`GroupState`] and collects what has to be written ([`Changes`]): rows, events
//! and effects, in one transaction. It is a function of its arguments alone.
//!
//! * [`command`]: what a person asks of a deployment, and whether it is allowed
//! * [`create`]: new deployments, rollbacks
//! * [`adopt`]: what a group ran when it came to Capstan
//! * [`outcome`]: how stages end
//! * [`dependency`]: what is broken or cut off: holds, bypasses and debts
//! * [`observe`]: what is seen of servers
//! * [`late_mark`]: our own mark on a server that we do not keep out
//! * [`member`]: servers that come, go and are pulled out
//! * [`put_back`]: servers that are put back
//! * [`sync`]: the record of the CMDB
//! * [`restored`]: the record comes from a backup
//! * [`advance`]: the rows of the tables, then the holds, then the next steps, until nothing changes
//! * [`hold`]: the holds that Capstan sets and clears by itself
//! * [`start`]: one stage of one target starts
//! * [`tries`]: acts that are done again
//! * [`write`]: the only ways to change a row, each with its event

pub mod command;

mod adopt;
mod advance;
mod create;
mod dependency;
mod hold;
mod late_mark;
mod member;
mod observe;
mod outcome;
mod put_back;
mod restored;
mod start;
mod sync;
mod tries;
mod view;
mod write;

use std::time::Duration;

use crate::changes::Changes;
use crate::input::{Answer, Input, Refused};
use crate::share::Share;
use crate::state::GroupState;
use crate::{DeploymentId, Timestamp};

pub use command::permitted;
pub use late_mark::wants_admit;
pub use observe::{LOOK_INTERVAL, wants_drain};
pub use put_back::{RETURN_PATIENCE, return_package, wants_return};
pub use restored::RESTORED_FENCES;
pub use view::view;

/// The name under which the engine itself acts.
pub const CAPSTAN: &str = "capstan";
/// After this long a deployment that waits for a person is called stale, once, unless it was created
/// with another time.
pub const STALE_AFTER: Duration = Duration::from_hours(24);
/// A refresh by which more than this share of a group's members would leave waits for a person, unless it
/// comes with another share.
pub const HOLD_ABOVE: Share = Share::percent(50);
/// After this long a draft that nobody started is revoked.
pub const DRAFT_KEPT: Duration = Duration::from_hours(7 * 24);
/// At most so many stages start in one decision, so that no transaction grows with the group. The
/// rest follows in the next one ([`Decision::more`]).
pub const STARTS_AT_ONCE: usize = 128;
/// The rest of the starts is due after this time at the latest, if nobody sees to [`Decision::more`].
pub const MORE_STARTS_WITHIN: Duration = Duration::from_secs(1);

/// What follows from an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What whoever gave the input is told.
    pub answer: Answer,
    /// What has to be written, in one transaction.
    pub changes: Changes,
    /// Deployments with more to start than fitted in: wake them as soon as the outcomes that have
    /// come are written. Their effect to be woken is due in a second, so nothing is forgotten if that
    /// is not done.
    pub more: Vec<DeploymentId>,
}

/// Decides. The state is changed as if the changes were already written.
///
/// # Errors
/// [`Refused`] when the input is not allowed; the state is as it was.
pub fn decide(state: &mut GroupState, input: &Input, now: Timestamp) -> Result<Decision, Refused> {
    let mut decider = Decider {
        state,
        now,
        actor: CAPSTAN.to_owned(),
        changes: Changes::default(),
        more: Vec::new(),
    };
    let answer = decider.input(input)?;
    decider.settle_running();
    let Decider { changes, more, .. } = decider;
    Ok(Decision { answer, changes, more })
}

/// One decision under way.
struct Decider<'a> {
    state: &'a mut GroupState,
    now: Timestamp,
    actor: String,
    changes: Changes,
    more: Vec<DeploymentId>,
}

impl Decider<'_> {
    fn input(&mut self, input: &Input) -> Result<Answer, Refused> {
        match input {
            Input::Create(create) => self.create(create),
            Input::Rollback(rollback) => self.roll_back(rollback),
            Input::Adopt { package, scripts, servers, history } => {
                self.check_untouched(history)?;
                self.adopt(package, scripts, servers)
            }
            Input::Act(act) => self.act(act),
            Input::StageEnded(ended) => Ok(self.stage_ended(ended)),
            Input::AnswerLost { deployment, target, key, message } => {
                Ok(self.answer_lost(*deployment, *target, *key, message))
            }
            Input::AnswerFound { deployment, target, key } => {
                Ok(self.answer_found(*deployment, *target, *key))
            }
            Input::TakenOver { deployment, target } => Ok(self.taken_over(*deployment, *target)),
            Input::Woken { deployment } => Ok(self.woken(*deployment)),
            Input::Observed { deployment, seen, can_drain, answering } => {
                for (server, answers) in answering {
                    self.see_health(*server, *answers);
                }
                Ok(self.observed(*deployment, seen, *can_drain))
            }
            Input::PullOut { server, actor, reason } => self.pull_out(*server, actor, reason),
            Input::PutBack { server, actor } => self.put_back(*server, actor),
            Input::ServerDrained { server, problem } => {
                Ok(self.server_drained(*server, problem.as_deref()))
            }
            Input::ServerReturned { server, report, sight, current } => {
                Ok(self.server_returned(*server, report.as_ref(), *sight, current.as_ref()))
            }
            Input::ServerAdmitted { server, sight } => Ok(self.server_admitted(*server, *sight)),
            Input::Dependency { name, impaired } => {
                Ok(self.dependency_changed(name, impaired.as_ref()))
            }
            Input::Synced { record, hold_above, reading } => {
                Ok(self.synced(record, *hold_above, *reading))
            }
            Input::Restored { actor } => Ok(self.restored(actor)),
        }
    }
}
