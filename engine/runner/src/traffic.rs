//! Markdown and Markup: acts on the load balancer, then looks until they show.

use capstan_core::input::{Again, Input, StageResult};
use capstan_core::order::Work;
use capstan_core::ports::{DriverError, LoadBalancer, Seen, Sight};
use capstan_core::record::Cause;
use capstan_core::stage::{DRAIN_LIMIT, Stage, VERIFY_FRESH};
use capstan_store::{chain, crash};

use crate::job::{Context, Job, Step};
use crate::order::{ended, lost, not_now, refused, wait_or_give_up};

/// One step: the act (it is idempotent, so it is repeated after a lost answer), then a look. No
/// balancer refuses an act that came too late, so one that is repeated is asked about first.
pub(crate) async fn step(job: &mut Job, work: &Work, context: &Context) -> Step {
    let balancer = match context.load_balancer(&work.load_balancer) {
        Ok(balancer) => balancer.as_ref(),
        Err(error) => return refused(work, &error.to_string()),
    };
    let turn = if !job.is_begun && balancer.can_drain() {
        Some(context.turns.take(work.endpoint.server).await)
    } else {
        None
    };
    if !job.is_begun && (turn.is_some() || job.may_be_superseded()) {
        match context.store.is_current(job.claim.effect.group, work).await {
            Ok(true) => {}
            Ok(false) => return Step::Superseded,
            Err(error) if error.is_unavailable() => {
                return not_now(work, context, &DriverError::Busy(chain(&error)));
            }
            Err(error) => {
                return wait_or_give_up(work, context, &chain(&error), Cause::Timeout);
            }
        }
    }
    if !job.is_begun && work.stage == Stage::Markup && !is_proven(work, context) {
        drop(turn);
        return unproven(job, work, context, balancer).await;
    }
    if !job.is_begun
        && !job.is_unknown
        && let Err(error) = context.may_act()
    {
        return not_now(work, context, &error);
    }
    let acted = act(job, work, context, balancer).await;
    drop(turn);
    let seen = match acted {
        Ok(()) => look(work, balancer).await,
        // One that was asked for before and whose answer was lost may have happened all the same.
        Err(DriverError::Refused(message) | DriverError::Busy(message)) if job.is_unknown => {
            return shown_or_lost(job, work, context, balancer, &message).await;
        }
        Err(error) => Err(error),
    };
    let seen = match seen {
        Ok(seen) => seen,
        Err(DriverError::Refused(message) | DriverError::Busy(message)) if job.is_unknown => {
            return lost(job, work, context, &message);
        }
        Err(DriverError::Refused(message)) => return refused(work, &message),
        // A balancer that is not asked for a while says nothing of an act whose answer was lost (S11).
        Err(DriverError::Busy(message)) if job.is_unknown => {
            return lost(job, work, context, &message);
        }
        Err(DriverError::Busy(message)) => {
            return wait_or_give_up(work, context, &message, Cause::Timeout);
        }
        // An act that was lost is repeated; a look that was lost says nothing of the act.
        Err(DriverError::Unknown(message)) => return lost(job, work, context, &message),
    };
    match shown(work, context, balancer, seen) {
        Some((result, message)) => ended(work, result, message),
        None => not_yet(job, work, context, seen),
    }
}

/// Whether the proof of the package is fresh enough to bring a server into traffic (S5).
fn is_proven(work: &Work, context: &Context) -> bool {
    work.verified_at.is_some_and(|at| context.store.now().since(at) <= VERIFY_FRESH)
}

/// The proof is too old to act (S5). If an act was asked for while it was fresh and its answer was lost,
/// that act may have happened or may yet: the balancer is looked at, and nothing is done (S11).
async fn unproven(
    job: &mut Job,
    work: &Work,
    context: &Context,
    balancer: &dyn LoadBalancer,
) -> Step {
    if !job.is_unknown {
        let result = StageResult::Failed { cause: Cause::Failed, again: Again::WillNot };
        let text = "its package was proven more than a minute ago; it must be verified again";
        return ended(work, result, Some(text.to_owned()));
    }
    let text = "the answer to the act was lost, and it is not seen to have happened";
    shown_or_lost(job, work, context, balancer, text).await
}

/// The answer to an act is lost, and the act is not done (again) now: the balancer is looked at (S11).
async fn shown_or_lost(
    job: &mut Job,
    work: &Work,
    context: &Context,
    balancer: &dyn LoadBalancer,
    text: &str,
) -> Step {
    match look(work, balancer).await {
        Ok(seen) => match shown(work, context, balancer, seen) {
            Some((result, message)) => ended(work, result, message),
            None => lost(job, work, context, text),
        },
        Err(error) => lost(job, work, context, &error.to_string()),
    }
}

/// How the act has ended, if the balancer shows that it has.
fn shown(
    work: &Work,
    context: &Context,
    balancer: &dyn LoadBalancer,
    seen: Option<Seen>,
) -> Option<(StageResult, Option<String>)> {
    match work.stage {
        Stage::Markdown => marked_down(work, context, balancer, seen),
        Stage::Check | Stage::Download | Stage::Install | Stage::Verify | Stage::Markup => {
            marked_up(seen)
        }
    }
}

async fn act(
    job: &mut Job,
    work: &Work,
    context: &Context,
    balancer: &dyn LoadBalancer,
) -> Result<(), DriverError> {
    if !job.is_begun {
        context.may_act()?;
        crash::point("driver.before");
        match work.stage {
            Stage::Markdown => balancer.drain(&work.endpoint).await?,
            Stage::Check | Stage::Download | Stage::Install | Stage::Verify | Stage::Markup => {
                balancer.admit(&work.endpoint).await?;
            }
        }
        crash::point("driver.after");
        job.is_begun = true;
    }
    Ok(())
}

async fn look(work: &Work, balancer: &dyn LoadBalancer) -> Result<Option<Seen>, DriverError> {
    if work.stage == Stage::Markdown && !balancer.can_drain() {
        return Ok(None);
    }
    let seen = balancer.observe(std::slice::from_ref(&work.endpoint)).await?;
    Ok(seen.first().copied())
}

/// Out of traffic, with its requests done or the drain's limit passed. A driver that cannot drain has
/// nothing to wait for.
fn marked_down(
    work: &Work,
    context: &Context,
    balancer: &dyn LoadBalancer,
    seen: Option<Seen>,
) -> Option<(StageResult, Option<String>)> {
    if !balancer.can_drain() {
        return Some((StageResult::Succeeded, None));
    }
    let seen = seen?;
    let waited = context.store.now().since(work.act_at);
    match (seen.sight, seen.in_flight.unwrap_or(0)) {
        (Sight::Dead, _) | (Sight::Drained | Sight::TakenOut, 0) => {
            Some((StageResult::Succeeded, None))
        }
        (Sight::Drained | Sight::TakenOut, in_flight) if waited >= DRAIN_LIMIT => {
            let text = format!("{in_flight} requests were still under way after the drain's limit");
            Some((StageResult::Succeeded, Some(text)))
        }
        _ => None,
    }
}

fn marked_up(seen: Option<Seen>) -> Option<(StageResult, Option<String>)> {
    match seen?.sight {
        Sight::Serving => Some((StageResult::Succeeded, None)),
        Sight::TakenOut => {
            let text = "somebody else keeps it out at the load balancer".to_owned();
            Some((StageResult::StillOut, Some(text)))
        }
        Sight::Drained | Sight::Dead | Sight::Unknown => None,
    }
}

fn not_yet(job: &mut Job, work: &Work, context: &Context, seen: Option<Seen>) -> Step {
    if context.store.now() > work.deadline_at {
        let text = match (work.stage, seen.map(|seen| seen.sight)) {
            (Stage::Markup, Some(Sight::Dead)) => "it does not answer its health URL",
            (Stage::Markup, _) => "the load balancer does not send it traffic",
            _ => "the load balancer still sends it traffic",
        };
        let result = StageResult::Failed { cause: Cause::Timeout, again: Again::May };
        return ended(work, result, Some(text.to_owned()));
    }
    let tell = std::mem::take(&mut job.is_unknown).then_some(Input::AnswerFound {
        deployment: work.deployment,
        target: work.target,
        key: work.key,
    });
    Step::LookAgain { tell }
}
