//! How many orders to hosts may be under way in one process, and where the stages that would give more
//! wait. Acts at load balancers take no room: they are short, and a proof does not last while they wait.
//!
//! A stage that has no room waits without a slot: looks at load balancers, waits that are over and drains
//! are short and are claimed from the same table, so they must find a slot however many stages wait. Of
//! a stage that waits nothing is kept but its effect; its work is read again when there is room.

use std::sync::Arc;

use capstan_core::effect::Effect;
use capstan_store::{Claim, Task, chain};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::job::{Context, Job};
use crate::measure::Counted;

/// Stages that wait without a slot. Beyond that they keep theirs, and nothing more is claimed.
const WAIT_AT_MOST: usize = 100_000;

/// Permits for stages.
pub(crate) struct Room {
    under_way: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Room {
    pub(crate) fn new(under_way: usize) -> Self {
        Self {
            under_way: Arc::new(Semaphore::new(under_way)),
            places: Arc::new(Semaphore::new(WAIT_AT_MOST)),
        }
    }

    async fn wait(&self, context: &Context) -> Option<OwnedSemaphorePermit> {
        let mut stopped = context.stopped.clone();
        tokio::select! {
            permit = Arc::clone(&self.under_way).acquire_owned() => permit.ok(),
            _ = stopped.wait_for(|stopped| *stopped) => None,
        }
    }
}

/// Lets a stage in. `false`: it waits, or was given back.
pub(crate) async fn let_in(job: &mut Job, context: &Arc<Context>) -> bool {
    let room = &context.room;
    if let Ok(permit) = Arc::clone(&room.under_way).try_acquire_owned() {
        job.under_way = Some(permit);
        return true;
    }
    if let Ok(place) = Arc::clone(&room.places).try_acquire_owned() {
        let effect = job.claim.effect;
        context.keep_waiting(effect);
        let (waiting, context) = (Arc::clone(context), Arc::clone(context));
        tokio::spawn(async move {
            waiting.wait_or_give_back(effect, wait_for_room(context, effect, place)).await;
        });
        return false;
    }
    job.under_way = room.wait(context).await;
    if job.under_way.is_none() || is_over(&job.claim.task, context) {
        context.give_back(job);
        return false;
    }
    true
}

async fn wait_for_room(context: Arc<Context>, effect: Effect, place: OwnedSemaphorePermit) {
    let _claimed = Counted::new("capstan_jobs_under_way");
    let _waits = Counted::new("capstan_stages_without_room");
    // None: the engine stops, and gives back what waits.
    let Some(permit) = context.room.wait(&context).await else { return };
    let Some(slot) = context.look_slot().await else { return };
    drop(place);
    if !context.waits_no_more(effect) {
        return;
    }
    let task = match context.store.task(effect).await {
        Ok(task) if !is_over(&task, &context) => task,
        Ok(_) => return context.store.return_claim(effect),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "a stage that waited cannot be read yet");
            return context.store.return_claim(effect);
        }
    };
    let mut job = Job::new(Claim { effect, task }, slot);
    job.under_way = Some(permit);
    context.enqueue(job);
}

/// Whether a stage's time was over before there was room for it: the next claim gives it its whole limit.
fn is_over(task: &Task, context: &Context) -> bool {
    matches!(task, Task::Stage(work) if work.deadline_at < context.store.now())
}
