//! The queue `database`: an apalis backend over the effects table.
//!
//! The row is the truth and our commit is the ack, so the backend needs no codec, no ack and no
//! heartbeat of apalis: a feeder task claims due rows, one permit per row, and hands them to the
//! worker; jobs whose host still works come back through the same channel when they are to be looked
//! at. The backend has no error: the feeder backs off by itself and the worker never dies of a
//! database that is away.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Polling, Poll};
use std::time::Duration;

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::error::{BoxDynError, WorkerError};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::data::Data;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use capstan_store::chain;

use crate::job::{Context, Job};

/// Name of the queue, in worker names and metrics.
pub const NAME: &str = "effects";

/// Wait after work could not be asked for.
const BACK_OFF: Duration = Duration::from_millis(200);

/// Runs one worker until the engine stops or the worker ends by itself.
pub(crate) async fn run_worker(context: Arc<Context>, number: u64) -> Result<(), WorkerError> {
    let name = format!("{NAME}-{}-{number}", std::process::id());
    // Every job in the channel holds a permit, for its start or for a look: it is never full.
    let (jobs, received) = mpsc::channel(2 * context.settings.slots);
    context.jobs.send_replace(Some(jobs.clone()));
    let backend = Effects { received, feeder: None, closing: None, context: Arc::clone(&context) };
    let worker =
        WorkerBuilder::new(name).backend(backend).data(Arc::clone(&context)).build(run_job);
    let ended = worker.run_until(stop_signal(context)).await;
    drop(jobs);
    ended
}

async fn stop_signal(context: Arc<Context>) -> Result<(), std::io::Error> {
    let mut stopped = context.stopped.clone();
    // An error means that the engine's handle is gone: then it stops as well.
    stopped.wait_for(|stopped| *stopped).await.map(|_| ()).or(Ok(()))
}

async fn run_job(job: Job, context: Data<Arc<Context>>) -> Result<(), BoxDynError> {
    // A panic ends this step and no more: the job is begun again, and the worker goes on.
    let step = AssertUnwindSafe(crate::job::run(job, Arc::clone(&context))).catch_unwind();
    step.await.map_err(|_| BoxDynError::from("a job's step panicked"))
}

/// The backend; see the module's text.
struct Effects {
    received: mpsc::Receiver<Job>,
    feeder: Option<JoinHandle<()>>,
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    context: Arc<Context>,
}

impl Backend for Effects {
    type Task = Task<Job>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Polling<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        polling: &mut Polling<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Job>, Infallible>>> {
        self.received.poll_recv(polling).map(|job| {
            job.map(|job| {
                let id = TaskId::from_string(job.id());
                Ok(TaskBuilder::new(job).task_id(id).build())
            })
        })
    }

    fn poll_close(
        &mut self,
        polling: &mut Polling<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        let closing = self.closing.get_or_insert_with(|| {
            self.received.close();
            let feeder = self.feeder.take();
            let (_, empty) = mpsc::channel(1);
            let received = std::mem::replace(&mut self.received, empty);
            Box::pin(close(feeder, received, Arc::clone(&self.context)))
        });
        closing.as_mut().poll(polling).map(Ok)
    }
}

impl Drop for Effects {
    /// A worker that ends without closing its backend leaves nothing claimed behind.
    fn drop(&mut self) {
        if let Some(feeder) = self.feeder.take() {
            feeder.abort();
        }
        self.received.close();
        while let Ok(job) = self.received.try_recv() {
            self.context.give_back(&job);
        }
    }
}

impl BackendConfig for Effects {
    type Args = Job;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = tower::layer::util::Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, worker: &mut WorkerContext) -> Self::Layer {
        let feeder = feed(Arc::clone(&self.context), worker.clone());
        self.feeder = Some(tokio::spawn(feeder));
        Self::Layer::new()
    }
}

/// Jobs that were not begun go back to the table.
async fn close(
    feeder: Option<JoinHandle<()>>,
    mut received: mpsc::Receiver<Job>,
    context: Arc<Context>,
) {
    if let Some(feeder) = feeder {
        feeder.abort();
        // The feeder was aborted on purpose; a claim that it waited for is given back by the store.
        drop(feeder.await);
    }
    while let Some(job) = received.recv().await {
        context.give_back(&job);
    }
}

/// Takes due rows as long as the worker runs: one permit per row, so that no row is claimed that
/// cannot be begun at once.
async fn feed(context: Arc<Context>, worker: WorkerContext) {
    let mut stopped = context.stopped.clone();
    while !worker.is_shutting_down() {
        let slots = Arc::clone(&context.start_slots);
        let mut work = match context.store.take_work(slots, context.settings.slots).await {
            Ok(work) => work,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "due work cannot be taken");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        loop {
            let claimed = tokio::select! {
                claimed = work.recv() => claimed,
                // What is in the channel is given back as it is dropped. An error: nobody can stop
                // the engine any more, so it is stopped.
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            let Some(claimed) = claimed else { break };
            let Some((claim, slot)) = claimed.take() else { continue };
            capstan_store::crash::point("stage.claimed");
            context.enqueue(Job::new(claim, slot));
        }
    }
}
