//! Stages that are orders to a host: order, then look again until the script has ended.

use capstan_core::input::{Again, Input, StageEnded, StageResult};
use capstan_core::order::Work;
use capstan_core::ports::{DriverError, Executor, Order, OrderState};
use capstan_core::record::Cause;
use capstan_core::stage::{Stage, UNKNOWN_GRACE};
use capstan_store::{OutputChunk, chain, crash};

use crate::job::{Context, Job, Step};

/// Exit codes of host scripts.
const ALREADY_SO: i32 = 10;
const WILL_NOT_SUCCEED: i32 = 20;
const UNHEALTHY: i32 = 21;
const TIMED_OUT: i32 = 124;
/// Bytes at the end of the output that are searched for the sentence that says what went wrong.
const TAIL: usize = 4096;
/// How many parts of the output one step reads.
const PARTS_AT_ONCE: u32 = 32;

/// One step: the order is given, or the host is asked for it by key.
pub(crate) async fn step(job: &mut Job, work: &Work, context: &Context) -> Step {
    let executor = match context.executor_of(&work.executors) {
        Ok(executor) => executor,
        Err(error) if job.is_begun => return lost(job, work, context, &error.to_string()),
        Err(error) => return refused(work, &error.to_string()),
    };
    let answer = if job.is_begun {
        look(job, work, executor.as_ref(), context).await
    } else {
        let order = match make(work, context).await {
            Ok(order) => order,
            Err(DriverError::Refused(message)) => return refused(work, &message),
            Err(error) => return not_now(work, context, &error),
        };
        if let Err(error) = context.may_act() {
            return not_now(work, context, &error);
        }
        start(job, work, executor.as_ref(), &order).await
    };
    match answer {
        Ok(state) => state_step(job, work, executor.as_ref(), context, state).await,
        // Who does not say how an order stands, for whatever reason, says nothing of its script (S11).
        Err(DriverError::Refused(message)) if job.is_begun => lost(job, work, context, &message),
        Err(DriverError::Refused(message)) => refused(work, &message),
        // The order is on the host, and whoever asks for it has no time just now, or is not asked: that
        // says nothing of the host, and counts as no failure (S2).
        Err(DriverError::Busy(message)) if job.is_begun => ask_later(job, work, context, &message),
        Err(DriverError::Busy(message)) => wait_or_give_up(work, context, &message, Cause::Timeout),
        Err(DriverError::Unknown(message)) => {
            job.is_begun = true;
            lost(job, work, context, &message)
        }
    }
}

/// The order as the host gets it.
async fn make(work: &Work, context: &Context) -> Result<Order, DriverError> {
    let script = context.script(work.script.as_deref().unwrap_or_default()).await?;
    let mut environment = work.environment.clone();
    let urls = context.package_urls(&work.package_sha256, &work.idc).await?;
    environment.insert("CAPSTAN_PACKAGE_URLS".to_owned(), urls);
    environment.insert("CAPSTAN_FENCE".to_owned(), work.fence.to_string());
    Ok(Order { key: work.key, fence: work.fence, time_limit: work.time_limit, script, environment })
}

async fn start(
    job: &mut Job,
    work: &Work,
    executor: &dyn Executor,
    order: &Order,
) -> Result<OrderState, DriverError> {
    crash::point("driver.before");
    let answer = executor.start(&work.endpoint, order).await;
    crash::point("driver.after");
    job.is_begun |= answer.is_ok();
    answer
}

async fn look(
    job: &mut Job,
    work: &Work,
    executor: &dyn Executor,
    context: &Context,
) -> Result<OrderState, DriverError> {
    crash::point("look.before");
    let look = executor.look(&work.endpoint, work.key, job.output_bytes).await?;
    crash::point("look.after");
    keep(job, work, context, look.output).await?;
    Ok(look.state)
}

/// Stores output and remembers its end.
async fn keep(
    job: &mut Job,
    work: &Work,
    context: &Context,
    bytes: Vec<u8>,
) -> Result<(), DriverError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let count = bytes.len() as u64;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let chunk = OutputChunk {
        target: work.target,
        key: work.key,
        stage: work.stage,
        attempt: work.attempt,
        offset: job.output_bytes,
        bytes,
    };
    if let Err(error) = context.store.output_append(chunk).await {
        return Err(DriverError::Busy(format!("its output cannot be stored: {}", chain(&error))));
    }
    job.output_bytes += count;
    job.tail.push_str(&text);
    if job.tail.len() > TAIL {
        let cut = job.tail.ceil_char_boundary(job.tail.len() - TAIL);
        job.tail.drain(..cut);
    }
    Ok(())
}

async fn state_step(
    job: &mut Job,
    work: &Work,
    executor: &dyn Executor,
    context: &Context,
    state: OrderState,
) -> Step {
    match state {
        OrderState::Running => running(job, work, context),
        OrderState::Ended(code) => {
            // What the script said last belongs to how it ended: the end is not told without it, unless
            // it does not come in time.
            if let Err(error) = read_rest(job, work, executor, context).await
                && context.store.now() <= work.deadline_at + UNKNOWN_GRACE
            {
                tracing::warn!(%error, key = %work.key, "an order's output is not whole yet");
                return Step::LookAgain { tell: None };
            }
            ended(work, exit_result(work.stage, code), message(job, code))
        }
        // The host does not know the key: the order never came, so it is given again.
        OrderState::Unknown => {
            job.is_begun = false;
            lost(job, work, context, "the host does not know the order")
        }
        OrderState::Lost => {
            let result = StageResult::Failed { cause: Cause::Failed, again: Again::May };
            let text = "the script is gone and left no exit code (was the host restarted?)";
            ended(work, result, Some(text.to_owned()))
        }
        OrderState::Cancelled => {
            let result = StageResult::Failed { cause: Cause::Refused, again: Again::WillNot };
            ended(work, result, Some("the order was ended by a newer one".to_owned()))
        }
        // Another engine has this order now, or a newer order is on the host: it is not ours to end.
        OrderState::Stale(fence) => {
            job.is_begun = true;
            let text = format!("the host has seen fence {fence}, this order has {}", work.fence);
            lost(job, work, context, &text)
        }
    }
}

fn running(job: &mut Job, work: &Work, context: &Context) -> Step {
    if context.store.now() > work.deadline_at + UNKNOWN_GRACE {
        let result = StageResult::Failed { cause: Cause::Timeout, again: Again::WillNot };
        return ended(work, result, Some("the host did not end the script in time".to_owned()));
    }
    let tell = std::mem::take(&mut job.is_unknown).then_some(Input::AnswerFound {
        deployment: work.deployment,
        target: work.target,
        key: work.key,
    });
    Step::LookAgain { tell }
}

/// Reads output until no more comes; the script has ended, so it does end.
async fn read_rest(
    job: &mut Job,
    work: &Work,
    executor: &dyn Executor,
    context: &Context,
) -> Result<(), DriverError> {
    for _ in 0..PARTS_AT_ONCE {
        let before = job.output_bytes;
        look(job, work, executor, context).await?;
        if job.output_bytes == before {
            break;
        }
    }
    Ok(())
}

fn exit_result(stage: Stage, code: i32) -> StageResult {
    let failed = |cause, again| StageResult::Failed { cause, again };
    match code {
        0 | ALREADY_SO => StageResult::Succeeded,
        UNHEALTHY if matches!(stage, Stage::Verify | Stage::Check) => StageResult::Unhealthy,
        WILL_NOT_SUCCEED | UNHEALTHY => failed(Cause::Failed, Again::WillNot),
        TIMED_OUT => failed(Cause::Timeout, Again::May),
        _ => failed(Cause::Failed, Again::May),
    }
}

/// The sentence that the script left, or its last line, and the exit code.
fn message(job: &Job, code: i32) -> Option<String> {
    let lines = || job.tail.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let sentence = lines().find_map(|line| line.strip_prefix("capstan: "));
    match code {
        0 | ALREADY_SO => None,
        TIMED_OUT => Some("the script was ended at its time limit".to_owned()),
        _ => Some(match (sentence, lines().next()) {
            (Some(sentence), _) => format!("{sentence} (exit code {code})"),
            (None, Some(line)) => format!("exit code {code}: {line}"),
            (None, None) => format!("exit code {code}, and no output"),
        }),
    }
}

pub(crate) fn ended(work: &Work, result: StageResult, message: Option<String>) -> Step {
    // What a script prints may hold zero bytes, which PostgreSQL keeps in no text.
    let message = message.map(|text| text.replace('\0', "\u{fffd}"));
    Step::Done(Input::StageEnded(Box::new(StageEnded {
        deployment: work.deployment,
        target: work.target,
        key: work.key,
        result,
        message,
    })))
}

pub(crate) fn refused(work: &Work, message: &str) -> Step {
    let result = StageResult::Failed { cause: Cause::Refused, again: Again::WillNot };
    ended(work, result, Some(message.to_owned()))
}

/// An order that was given is asked for again, as long as its host may still work on it.
fn ask_later(job: &mut Job, work: &Work, context: &Context, message: &str) -> Step {
    if context.store.now() > work.deadline_at + UNKNOWN_GRACE {
        return lost(job, work, context, message);
    }
    Step::LookAgain { tell: None }
}

/// The database does not answer, or has not heard of this process: that says nothing of the host, so the
/// stage does not fail for it, however long it lasts.
pub(crate) fn not_now(work: &Work, context: &Context, error: &DriverError) -> Step {
    if context.store.now() > work.deadline_at {
        tracing::warn!(%error, target = %work.target, "a stage could not begin in its time");
        return Step::GiveBack;
    }
    Step::LookAgain { tell: None }
}

/// The other side did nothing: it is asked again until the stage's limit.
pub(crate) fn wait_or_give_up(work: &Work, context: &Context, message: &str, cause: Cause) -> Step {
    if context.store.now() > work.deadline_at {
        let result = StageResult::Failed { cause, again: Again::WillNot };
        return ended(work, result, Some(message.to_owned()));
    }
    Step::LookAgain { tell: None }
}

/// A lost answer is not an answer: it is asked for until the limit and the grace have passed (S11).
pub(crate) fn lost(job: &mut Job, work: &Work, context: &Context, message: &str) -> Step {
    // It is told as lost before it is told as failed, also when an engine finds it past its time.
    if !std::mem::replace(&mut job.is_unknown, true) {
        let tell = Input::AnswerLost {
            deployment: work.deployment,
            target: work.target,
            key: work.key,
            message: message.to_owned(),
        };
        return Step::LookAgain { tell: Some(tell) };
    }
    if context.store.now() > work.deadline_at + UNKNOWN_GRACE {
        let result = StageResult::Failed { cause: Cause::Unreachable, again: Again::WillNot };
        return ended(work, result, Some(message.to_owned()));
    }
    Step::LookAgain { tell: None }
}
