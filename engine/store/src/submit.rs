//! The one way to change a group, its servers and its deployments.

use std::sync::Arc;
use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::{ConfigRequest, DeploymentConfig};
use capstan_core::decide;
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::input::{Act, Answer, Input, Reading, Refused};
use capstan_core::order::Work;
use capstan_core::plan::{Plan, PlanInput, plan};
use capstan_core::ports::{CmdbGroup, Endpoint};
use capstan_core::record::{Flavor, PackageRef};
use capstan_core::share::Share;
use capstan_core::view::DeploymentView;
use capstan_core::{DeploymentId, GroupId, ServerId};
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc, oneshot, watch};

use crate::cache::{Copy, fill, freshen};
use crate::claims::Owed;
use crate::commit::Request;
use crate::hand_out::Taker;
use crate::load;
use crate::operation::within;
use crate::part::Submit;
use crate::work::{self, Claimed, Cursors, Task};
use crate::{Asked, Error, Store, SubmitError, chain, processes};

/// How long whoever has begun a deployment waits until its group knows what is not usable.
const TELL_LIMIT: Duration = Duration::from_secs(5);

impl Store {
    /// Gives an input to a group: it is decided and written, with its events and what must happen
    /// next, in one transaction.
    pub async fn submit(&self, group: GroupId, input: Input) -> Result<Answer, SubmitError> {
        self.give(None, group, input).await
    }

    /// The same for somebody who asked for it: the audit, and a request that must not be done twice, are
    /// written with it.
    pub async fn submit_for(
        &self,
        asked: Asked,
        group: GroupId,
        input: Input,
    ) -> Result<Answer, SubmitError> {
        self.give(Some(Box::new(asked)), group, input).await
    }

    async fn give(
        &self,
        asked: Option<Box<Asked>>,
        group: GroupId,
        input: Input,
    ) -> Result<Answer, SubmitError> {
        let may_begin = may_begin(&input);
        let (reply, answer) = oneshot::channel();
        let submit = Submit { group, input: Box::new(input), asked, reply: Some(reply) };
        self.ask(Request::Submit(submit)).await.map_err(SubmitError::Store)?;
        let answer = answer.await.unwrap_or(Err(SubmitError::Store(Error::Stopping)));
        if may_begin && answer.is_ok() {
            // It is done whatever becomes of this, which the next comparison does again.
            let told = within(TELL_LIMIT, Box::pin(self.dependencies_tell(Some(group))));
            if let Err(error) = told.await {
                tracing::warn!(%group, error = %chain(&error), "a group is told of dependencies later");
            }
        }
        answer
    }

    /// Brings a group's record from the CMDB into the cache; a group that is new is made.
    /// `confirmed`: a person confirms that servers may be removed; else it is held above the usual share.
    pub async fn sync_group(
        &self,
        record: CmdbGroup,
        confirmed: bool,
    ) -> Result<(GroupId, Answer), SubmitError> {
        let hold_above = (!confirmed).then_some(decide::HOLD_ABOVE);
        self.group_refresh(record, hold_above, Reading::Alone).await
    }

    /// The same, held if more than the share `hold_above` of the members would leave; none: a person confirms it.
    pub async fn group_refresh(
        &self,
        record: CmdbGroup,
        hold_above: Option<Share>,
        reading: Reading,
    ) -> Result<(GroupId, Answer), SubmitError> {
        let group = self.group_put(&record).await.map_err(SubmitError::Store)?;
        let input = Input::Synced { record: Box::new(record), hold_above, reading };
        let answer = self.submit(group, input).await?;
        // It may be new, or use another load balancer or executor from here on.
        self.dependencies_tell(Some(group)).await.map_err(SubmitError::Store)?;
        Ok((group, answer))
    }

    /// The plan of a deployment; changes nothing.
    pub async fn preview(
        &self,
        group: GroupId,
        package: PackageRef,
        flavor: Flavor,
        config: ConfigRequest,
        seed: Option<String>,
    ) -> Result<Plan, SubmitError> {
        let copy = self.copy(group, []).await.map_err(SubmitError::Store)?;
        let Some(state) = copy.as_ref() else { return Err(SubmitError::GroupUnknown) };
        let dark = state.group.binding.may_go_dark;
        let config = DeploymentConfig::complete(&config, flavor, dark)
            .map_err(|error| SubmitError::Refused(Refused::new("invalid", error.to_string())))?;
        let input = PlanInput {
            group: &state.group,
            servers: state.servers(),
            package: &package,
            flavor,
            config: &config,
            seed: seed.as_deref(),
        };
        plan(input).map_err(SubmitError::Refused)
    }

    /// A deployment as people see it.
    pub async fn deployment_view(&self, id: DeploymentId) -> Result<Option<DeploymentView>, Error> {
        let Some(group) = self.deployment_group(id).await? else { return Ok(None) };
        let copy = self.copy(group, []).await?;
        let Some(state) = copy.as_ref() else { return Ok(None) };
        if state.deployment(id).is_some() {
            return Ok(decide::view(state, id));
        }
        // One that has ended, or was never started: read it for this answer and do not keep it.
        let mut state = state.clone();
        drop(copy);
        let conn = self.inner.snapshot_to_show().await?;
        load::deployment(&conn, &mut state, id).await?;
        Ok(decide::view(&state, id))
    }

    /// The package that a server must prove to go into traffic when it is put back.
    pub async fn return_package(
        &self,
        group: GroupId,
        server: ServerId,
    ) -> Result<(Option<PackageRef>, Option<PackageRef>), Error> {
        let history = self.history(group).await?;
        let current = history.current().map(|past| past.package.clone());
        let copy = self.copy(group, []).await?;
        let wanted =
            copy.as_ref().and_then(|state| decide::return_package(state, server, current.as_ref()));
        Ok((wanted, current))
    }

    /// The last committed sequence number of a deployment's log, as it grows. Read the events after
    /// subscribing, and again after each change.
    pub fn watch(&self, deployment: DeploymentId) -> watch::Receiver<i64> {
        self.inner.watches.of(deployment)
    }

    /// Changes with every commit of this process.
    pub fn watch_all(&self) -> watch::Receiver<u64> {
        self.inner.watches.all.subscribe()
    }

    /// Due work from now on, each piece with a permit of `slots`: as long as none is free, nothing
    /// is claimed. `most` is how many permits there are. Only the last call per process gets work.
    /// The channel ends with the store.
    pub async fn take_work(
        &self,
        slots: Arc<Semaphore>,
        most: usize,
    ) -> Result<mpsc::Receiver<Claimed>, Error> {
        // Every piece in the channel holds a permit, so there is room for each.
        let (out, work) = mpsc::channel(most.max(1));
        self.inner.will_claim();
        self.ask(Request::Take(Taker { slots, out })).await?;
        Ok(work)
    }

    /// Whether a stage's act is still the one to be done: its target waits for this act, and its
    /// server got no later order. Who repeats an act at a load balancer asks first, since no host
    /// refuses it.
    pub async fn is_current(&self, group: GroupId, work: &Work) -> Result<bool, Error> {
        let copy = self.copy(group, [work.deployment]).await?;
        let current = copy.as_ref().and_then(|state| {
            let row = state.deployment(work.deployment)?;
            let target = &row.targets()[row.place(work.target)?];
            let server = state.server(target.server)?;
            let is_under_way = target.status.running() == Some(work.stage);
            Some(is_under_way && target.order == Some(work.key) && server.order == target.order)
        });
        Ok(current == Some(true))
    }

    /// Whether what an effect asks for at the load balancer is still wanted; see
    /// [`decide::wants_drain`], [`decide::wants_return`] and [`decide::wants_admit`].
    ///
    /// # Errors
    /// When the database does not answer, or has not heard of this process for so long that others may
    /// be at it.
    pub async fn is_wanted(&self, effect: Effect) -> Result<bool, Error> {
        let copy = self.copy(effect.group, []).await?;
        // Last, since the wait for the copy may have been long.
        if !self.may_act() {
            return Err(Error::Silent);
        }
        let Some(state) = copy.as_ref() else { return Ok(false) };
        Ok(match effect.kind {
            EffectKind::DrainServer(server) => decide::wants_drain(state, server),
            EffectKind::ReturnServer(server) => decide::wants_return(state, server),
            EffectKind::AdmitServer(server) => decide::wants_admit(state, server),
            EffectKind::RunStage(..)
            | EffectKind::WakeDeployment(_)
            | EffectKind::ObserveServers(_) => true,
        })
    }

    /// Every member of a group, as the running deployment reaches it.
    pub async fn members(&self, group: GroupId) -> Result<Vec<Endpoint>, Error> {
        let copy = self.copy(group, []).await?;
        Ok(copy.as_ref().map(work::members).unwrap_or_default())
    }

    /// What to do for an effect that is claimed, as it is by now.
    pub async fn task(&self, effect: Effect) -> Result<Task, Error> {
        let copy = self.copy(effect.group, effect.kind.deployment()).await?;
        let task = copy.as_ref().map(|state| work::task_of(state, effect, &mut Cursors::new()));
        Ok(task.unwrap_or(Task::Nothing))
    }

    /// Whether this process may still do what it has claimed. If it was frozen or cut off from the
    /// database for long, others may be doing it by now: then nothing is done outside.
    pub fn may_act(&self) -> bool {
        self.inner.member.may_act()
    }

    /// Takes this process out of those that work on the database, so that others go on at once.
    ///
    /// # Errors
    /// When the database does not answer; then they go on after the lease.
    pub async fn leave(&self) -> Result<(), Error> {
        processes::leave(&self.inner).await
    }

    /// Gives claimed work back now; another claim gets it at once.
    pub async fn give_back(&self, effects: &[Effect]) -> Result<(), Error> {
        self.inner.pay(effects, Owed::Release).await
    }

    /// Gives claimed work back as soon as the database can.
    pub fn return_claim(&self, effect: Effect) {
        self.inner.owe(effect, Owed::Release);
    }

    /// Deletes an effect for which nothing is left to do, as soon as the database can.
    pub fn forget_effect(&self, effect: Effect) {
        self.inner.owe(effect, Owed::Delete);
    }

    /// The group's copy as it is in the database by now; none: there is no such group.
    async fn copy(
        &self,
        group: GroupId,
        named: impl IntoIterator<Item = DeploymentId>,
    ) -> Result<OwnedMutexGuard<Copy>, Error> {
        let mut copy = self.inner.cache.lock(group).await;
        freshen(&mut copy, &self.inner).await?;
        fill(&mut copy, &self.inner, group, named).await?;
        Ok(copy)
    }

    async fn ask(&self, request: Request) -> Result<(), Error> {
        self.requests.send(request).await.map_err(|_| Error::Stopping)
    }
}

/// Whether a deployment may be under way after it that was not before.
fn may_begin(input: &Input) -> bool {
    let starts = |act: &Act| act.action == Action::Start;
    matches!(input, Input::Create(create) if create.start)
        || matches!(input, Input::Act(act) if starts(act))
        || matches!(input, Input::Rollback(_))
}
