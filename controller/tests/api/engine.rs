//! An engine whose stages end as the test says, at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::input::{Again, Input, StageEnded, StageResult};
use capstan_core::record::Cause;
use capstan_core::stage::Stage;
use capstan_store::{Claim, Claimed, Task};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;

use crate::world::World;

/// Pieces of work that may be under way.
const SLOTS: usize = 64;

pub(crate) struct Engine<'a> {
    world: &'a World,
    work: Receiver<Claimed>,
    /// Hosts that fail Verify, and do not run the package when they are asked.
    pub(crate) broken: BTreeSet<String>,
}

impl<'a> Engine<'a> {
    pub(crate) async fn start(world: &'a World) -> Self {
        let work = world.store.take_work(Arc::new(Semaphore::new(SLOTS)), SLOTS).await;
        Self { world, work: work.expect("a store gives work"), broken: BTreeSet::new() }
    }

    /// Does what is due until the deployment shows this status; gives it.
    pub(crate) async fn until(&mut self, deployment: &str, status: &str) -> Value {
        self.play(deployment, status, |shown| shown["shown_status"] == status).await
    }

    /// Does what is due until a batch, from 1, has this status.
    pub(crate) async fn until_batch(&mut self, deployment: &str, batch: usize, status: &str) {
        self.play(deployment, status, |shown| shown["batches"][batch - 1]["status"] == status)
            .await;
    }

    async fn play(
        &mut self,
        deployment: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let path = format!("/api/v1/deployments/{deployment}");
        loop {
            let shown = self.world.get(&path).await.expect(200);
            if wanted(&shown) {
                return shown;
            }
            let next = tokio::time::timeout(Duration::from_secs(10), self.work.recv()).await;
            let Ok(next) = next else { panic!("nothing is due, and it is not {what}: {shown}") };
            let taken = next.expect("the store lives").take();
            let (claim, _slot) = taken.expect("a claim");
            self.work_on(claim).await;
        }
    }

    async fn work_on(&self, claim: Claim) {
        let input = match claim.task {
            Task::Stage(work) => {
                let failed = StageResult::Failed { cause: Cause::Failed, again: Again::WillNot };
                let fails = matches!(work.stage, Stage::Verify | Stage::Check)
                    && self.broken.contains(&work.endpoint.hostname);
                Input::StageEnded(Box::new(StageEnded {
                    deployment: work.deployment,
                    target: work.target,
                    key: work.key,
                    result: if fails { failed } else { StageResult::Succeeded },
                    message: None,
                }))
            }
            Task::Wake(deployment) => Input::Woken { deployment },
            Task::Observe { .. }
            | Task::Drain { .. }
            | Task::Return { .. }
            | Task::Admit { .. }
            | Task::Nothing => {
                self.world.store.forget_effect(claim.effect);
                return;
            }
        };
        self.world.store.submit(claim.effect.group, input).await.expect("an outcome is taken");
    }
}
