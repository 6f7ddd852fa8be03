//! One claimed effect on its way: what is known of it, one step at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capstan_core::dependency;
use capstan_core::effect::Effect;
use capstan_core::input::Input;
use capstan_core::outages::Outages;
use capstan_core::ports::{DriverError, Executor, LoadBalancer, Script};
use capstan_store::{Claim, Store, SubmitError, Task, chain, crash};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::measure::{Counted, Slot, stage_ended};
use crate::room::Room;
use crate::supplies::ReadLocations;
use crate::turn::Turns;
use crate::{Ports, Settings, observe, order, room, traffic};

/// Waits before an outcome that could not be written is submitted again.
const SUBMIT_AGAIN: Duration = Duration::from_millis(500);
const SUBMIT_AGAIN_AT_LAST: Duration = Duration::from_secs(30);
/// Wait before a job whose step panicked is begun again.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// A job that waited longer than this for its turn asks whether its act is still wanted.
const STALE_CLAIM: Duration = Duration::from_secs(1);
/// Waits between looks at a host that works.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// A claimed effect and what has happened with it so far.
pub(crate) struct Job {
    pub(crate) claim: Claim,
    /// Which look this is; 0: the act itself comes first.
    pub(crate) looks: u32,
    /// Bytes of output that are stored.
    pub(crate) output_bytes: u64,
    /// The end of the output, for a message.
    pub(crate) tail: String,
    /// The last answer was lost.
    pub(crate) is_unknown: bool,
    /// When it was claimed.
    pub(crate) claimed_at: tokio::time::Instant,
    /// Whether the act was done (or may have been); else it comes first again.
    pub(crate) is_begun: bool,
    slot: Option<Slot>,
    /// Permits a stage to be under way.
    pub(crate) under_way: Option<OwnedSemaphorePermit>,
    _counted: Counted,
}

/// What follows from a step.
pub(crate) enum Step {
    /// The effect is done: the input is submitted, and its commit is the ack.
    Done(Input),
    /// Nothing is left to do; the effect is deleted.
    Forget,
    /// It is not begun, and cannot be for a reason of our own until its time is over: the next claim gives it
    /// its whole time.
    GiveBack,
    /// A later decision has taken the job's place, and with it its effect.
    Superseded,
    /// The host works (or does not answer): look again after a while, perhaps telling so first.
    LookAgain { tell: Option<Input> },
}

/// What all jobs share.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    pub(crate) stopped: watch::Receiver<bool>,
    /// The worker that takes jobs now.
    pub(crate) jobs: watch::Sender<Option<mpsc::Sender<Job>>>,
    pub(crate) start_slots: Arc<Semaphore>,
    look_slots: Arc<Semaphore>,
    pub(crate) room: Room,
    /// Acts on one server at its load balancer follow each other.
    pub(crate) turns: Turns,
    /// Effects that are claimed and whose jobs wait; see [`crate::waiting`].
    pub(crate) waiting: Mutex<HashSet<Effect>>,
    pub(crate) scripts: Mutex<HashMap<String, Arc<Script>>>,
    pub(crate) locations: Mutex<HashMap<String, ReadLocations>>,
    /// Load balancers that cannot be looked at.
    pub(crate) outages: Outages,
}

impl Job {
    /// A claimed effect that has not been begun.
    pub(crate) fn new(claim: Claim, slot: OwnedSemaphorePermit) -> Self {
        Self {
            looks: 0,
            output_bytes: 0,
            tail: String::new(),
            is_unknown: matches!(&claim.task, Task::Stage(work) if work.is_unknown),
            claim,
            claimed_at: tokio::time::Instant::now(),
            is_begun: false,
            slot: Some(Slot::new(slot)),
            under_way: None,
            _counted: Counted::new("capstan_jobs_under_way"),
        }
    }

    /// Whether a later decision may have taken its place since it was claimed.
    pub(crate) fn may_be_superseded(&self) -> bool {
        self.looks > 0 || self.claimed_at.elapsed() > STALE_CLAIM
    }

    /// Names the job within the process: no two at a time have the same.
    pub(crate) fn id(&self) -> String {
        let kind = self.claim.effect.kind;
        format!("{}.{}.{}", kind.number(), kind.subject(), self.looks)
    }
}

impl Context {
    pub(crate) fn new(
        store: Store,
        ports: Ports,
        settings: Settings,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            start_slots: Arc::new(Semaphore::new(settings.slots)),
            look_slots: Arc::new(Semaphore::new(settings.slots)),
            room: Room::new(settings.under_way),
            store,
            ports,
            settings,
            stopped,
            jobs: watch::Sender::new(None),
            turns: Turns::default(),
            waiting: Mutex::default(),
            scripts: Mutex::default(),
            locations: Mutex::default(),
            outages: Outages::default(),
        }
    }

    /// A slot for a job that gave up its own while it waited. `None` cannot be: nobody closes them.
    pub(crate) async fn look_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.look_slots).acquire_owned().await.ok()
    }

    /// Hands a job to the worker; while there is none, or the engine stops, it is given back.
    pub(crate) fn enqueue(&self, job: Job) {
        let left = match self.jobs.borrow().as_ref() {
            Some(jobs) => jobs.try_send(job).err().map(TrySendError::into_inner),
            None => Some(job),
        };
        if let Some(job) = left {
            self.give_back(&job);
        }
    }

    /// Gives a job back to the table; the next claim begins where it was.
    pub(crate) fn give_back(&self, job: &Job) {
        self.store.return_claim(job.claim.effect);
    }

    /// Asked before each act outside: a process that nobody has heard of for long does none, since others
    /// may be at it.
    pub(crate) fn may_act(&self) -> Result<(), DriverError> {
        if self.store.may_act() {
            return Ok(());
        }
        let text =
            "the database has not heard of this process for too long; it acts again when it has";
        Err(DriverError::Busy(text.to_owned()))
    }

    pub(crate) fn executor(&self, name: &str) -> Result<&Arc<dyn Executor>, DriverError> {
        find(&self.ports.executors, "executor", name)
    }

    /// The first of these executors that this process has and no person cut off, or the first one if there is
    /// none: then nothing is done. Every host has one program for all of them, so whoever asks finds what another
    /// one has ordered.
    pub(crate) fn executor_of(&self, names: &[String]) -> Result<&Arc<dyn Executor>, DriverError> {
        let is_usable = |name: &&String| {
            let is_cut_off = self.ports.breakers.is_cut_off(&dependency::executor(name));
            !is_cut_off && self.ports.executors.contains_key(*name)
        };
        let name = names.iter().find(is_usable).or_else(|| names.first());
        self.executor(name.map_or("", String::as_str))
    }

    pub(crate) fn load_balancer(&self, name: &str) -> Result<&Arc<dyn LoadBalancer>, DriverError> {
        find(&self.ports.load_balancers, "load balancer", name)
    }
}

fn find<'a, T: ?Sized>(
    drivers: &'a BTreeMap<String, Arc<T>>,
    port: &str,
    name: &str,
) -> Result<&'a Arc<T>, DriverError> {
    drivers.get(name).ok_or_else(|| {
        let known: Vec<&str> = drivers.keys().map(String::as_str).collect();
        DriverError::Refused(format!(
            "no {port} is configured under the name {name}; there are: {}",
            known.join(", ")
        ))
    })
}

/// A job whose step panics is begun again: what it did is found by its key.
struct Unfinished {
    job: Option<Job>,
    context: Arc<Context>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            tracing::error!(job = job.id(), "a job's step ended badly; it is begun again");
            let mut job = job;
            // It waits for a slot of its own then, and must not hold one meanwhile.
            job.slot = None;
            job.looks += 1;
            later(Arc::clone(&self.context), job, AFTER_PANIC);
        }
    }
}

/// Does one step of a job.
pub(crate) async fn run(job: Job, context: Arc<Context>) {
    let mut unfinished = Unfinished { job: Some(job), context: Arc::clone(&context) };
    let Some(job) = unfinished.job.as_mut() else { return };
    // Acts at a balancer are short, and a proof does not last while a Markup waits in line.
    let takes_room = matches!(&job.claim.task, Task::Stage(work) if work.stage.is_order());
    if takes_room && job.under_way.is_none() && !room::let_in(job, &context).await {
        unfinished.job = None;
        return;
    }
    let step = step(job, &context).await;
    job.slot = None;
    match step {
        Step::Done(input) => {
            crash::point("outcome.sent");
            stage_ended(&job.claim.task, &input, context.store.now());
            submit(&context, job.claim.effect.group, input).await;
            unfinished.job = None;
        }
        Step::Forget => {
            let effect = job.claim.effect;
            unfinished.job = None;
            context.store.forget_effect(effect);
        }
        Step::GiveBack => {
            context.give_back(job);
            unfinished.job = None;
        }
        Step::Superseded => {
            tracing::debug!(job = job.id(), "a later decision has taken its place");
            unfinished.job = None;
        }
        Step::LookAgain { tell } => {
            if let Some(input) = tell {
                submit(&context, job.claim.effect.group, input).await;
            }
            job.looks += 1;
            let wait = look_wait(job.looks);
            if let Some(job) = unfinished.job.take() {
                later(context, job, wait);
            }
        }
    }
}

/// The wait before a look: short at first, since most stages are short.
fn look_wait(looks: u32) -> Duration {
    FIRST_LOOK.saturating_mul(1 << (looks / 2).min(8)).min(LONGEST_LOOK)
}

/// Brings a job back to the worker after a while. It stays claimed and holds no slot meanwhile.
fn later(context: Arc<Context>, mut job: Job, wait: Duration) {
    let effect = job.claim.effect;
    context.keep_waiting(effect);
    let waiting = Arc::clone(&context);
    let wait = async move {
        tokio::time::sleep(wait).await;
        let permit = context.look_slot().await;
        if !context.waits_no_more(effect) {
            return;
        }
        job.slot = permit.map(Slot::new);
        context.enqueue(job);
    };
    tokio::spawn(async move { waiting.wait_or_give_back(effect, wait).await });
}

/// Submits an input until it is written or refused. What has happened outside must not be lost while
/// the database is away.
async fn submit(context: &Context, group: capstan_core::GroupId, input: Input) {
    let mut wait = SUBMIT_AGAIN;
    let mut unwritten = None;
    loop {
        match context.store.submit(group, input.clone()).await {
            Ok(_) => return,
            Err(SubmitError::Refused(refused)) => {
                tracing::warn!(%refused, "an outcome was refused");
                return;
            }
            Err(SubmitError::GroupUnknown) => {
                tracing::warn!(%group, "an outcome came for a group that is gone");
                return;
            }
            Err(error @ SubmitError::Store(_)) => {
                tracing::warn!(error = %chain(&error), "an outcome could not be written yet");
                unwritten.get_or_insert_with(|| Counted::new("capstan_outcomes_unwritten"));
                if *context.stopped.borrow() {
                    return;
                }
                tokio::time::sleep(wait).await;
                // The database comes back, or it does not; what a bug keeps from being decided stays.
                if !matches!(error, SubmitError::Store(error) if error.is_unavailable()) {
                    wait = (wait * 2).min(SUBMIT_AGAIN_AT_LAST);
                }
            }
        }
    }
}

async fn step(job: &mut Job, context: &Context) -> Step {
    let effect = job.claim.effect;
    let started = tokio::time::Instant::now();
    let step = match job.claim.task.clone() {
        Task::Stage(work) if work.stage.is_order() => order::step(job, &work, context).await,
        Task::Stage(work) => traffic::step(job, &work, context).await,
        Task::Wake(deployment) => Step::Done(Input::Woken { deployment }),
        Task::Observe { deployment, load_balancer, servers: part, are_all } => {
            let servers = observe::Looked { group: effect.group, part, are_all };
            observe::look(deployment, &load_balancer, &servers, context).await
        }
        Task::Drain { load_balancer, server } => {
            observe::drain(effect, &load_balancer, &server, context).await
        }
        Task::Return { load_balancer, executors, kind, server } => {
            let names = observe::Names { load_balancer, executors, kind };
            observe::bring_back(effect, &names, &server, context).await
        }
        Task::Admit { load_balancer, server } => {
            observe::remove_mark(effect, &load_balancer, &server, context).await
        }
        Task::Nothing => Step::Forget,
    };
    metrics::histogram!("capstan_job_step_seconds").record(started.elapsed().as_secs_f64());
    step
}
