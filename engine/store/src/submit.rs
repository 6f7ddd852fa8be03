//! The one way to change a group, its servers and its deployments.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_core::config::{ConfigRequest, DeploymentConfig};
use capstan_core::decide;
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::input::{Answer, Input, Refused};
use capstan_core::order::Work;
use capstan_core::plan::{Plan, PlanInput, plan};
use capstan_core::ports::{CmdbGroup, Endpoint};
use capstan_core::record::{Flavor, PackageRef};
use capstan_core::view::DeploymentView;
use capstan_core::{DeploymentId, GroupId, ServerId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::cache::fill;
use crate::claims::Owed;
use crate::commit::Request;
use crate::hand_out::Taker;
use crate::load;
use crate::part::Submit;
use crate::work::{self, Claimed, Cursors, Task};
use crate::{Error, RequestKey, Store, SubmitError};

impl Store {
    /// Gives an input to a group: it is decided and written, with its events and what must happen
    /// next, in one transaction.
    pub async fn submit(&self, group: GroupId, input: Input) -> Result<Answer, SubmitError> {
        self.submit_for(None, group, input).await
    }

    /// The same for a request that must not be done twice: the deployment that it makes is noted
    /// with it.
    pub async fn submit_for(
        &self,
        request: Option<RequestKey>,
        group: GroupId,
        input: Input,
    ) -> Result<Answer, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let submit = Submit { group, input: Box::new(input), request, reply: Some(reply) };
        self.ask(Request::Submit(submit)).await.map_err(SubmitError::Store)?;
        answer.await.unwrap_or(Err(SubmitError::Store(Error::Stopping)))
    }

    /// Brings a group's record from the CMDB into the cache; a group that is new is made.
    /// `confirmed`: a person confirms that servers may be removed.
    pub async fn sync_group(
        &self,
        record: CmdbGroup,
        confirmed: bool,
    ) -> Result<(GroupId, Answer), SubmitError> {
        let group = self.group_put(&record).await.map_err(SubmitError::Store)?;
        let input = Input::Synced { record: Box::new(record), confirmed };
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
        let mut copy = self.inner.cache.lock(group).await;
        let exists = fill(&mut copy, &self.inner.reader, group, []).await;
        if !exists.map_err(SubmitError::Store)? {
            return Err(SubmitError::GroupUnknown);
        }
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
        let mut copy = self.inner.cache.lock(group).await;
        fill(&mut copy, &self.inner.reader, group, []).await?;
        let Some(state) = copy.as_ref() else { return Ok(None) };
        if state.deployment(id).is_some() {
            return Ok(decide::view(state, id));
        }
        // One that has ended, or was never started: read it for this answer and do not keep it.
        let mut state = state.clone();
        drop(copy);
        load::deployment(&self.inner.reader, &mut state, id).await?;
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
        let mut copy = self.inner.cache.lock(group).await;
        fill(&mut copy, &self.inner.reader, group, []).await?;
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
        self.ask(Request::Take(Taker { slots, out })).await?;
        Ok(work)
    }

    /// Whether a stage's act is still the one to be done: its target waits for this act, and its
    /// server got no later order. Who repeats an act at a load balancer asks first, since no host
    /// refuses it.
    pub async fn is_current(&self, group: GroupId, work: &Work) -> Result<bool, Error> {
        let mut copy = self.inner.cache.lock(group).await;
        fill(&mut copy, &self.inner.reader, group, [work.deployment]).await?;
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
    /// [`decide::wants_drain`] and [`decide::wants_return`].
    pub async fn is_wanted(&self, effect: Effect) -> Result<bool, Error> {
        let mut copy = self.inner.cache.lock(effect.group).await;
        fill(&mut copy, &self.inner.reader, effect.group, []).await?;
        let Some(state) = copy.as_ref() else { return Ok(false) };
        Ok(match effect.kind {
            EffectKind::DrainServer(server) => decide::wants_drain(state, server),
            EffectKind::ReturnServer(server) => decide::wants_return(state, server),
            EffectKind::RunStage(..)
            | EffectKind::WakeDeployment(_)
            | EffectKind::ObserveServers(_) => true,
        })
    }

    /// Every member of a group, as the running deployment reaches it.
    pub async fn members(&self, group: GroupId) -> Result<Vec<Endpoint>, Error> {
        let mut copy = self.inner.cache.lock(group).await;
        fill(&mut copy, &self.inner.reader, group, []).await?;
        Ok(copy.as_ref().map(work::members).unwrap_or_default())
    }

    /// What to do for an effect that is claimed, as it is by now.
    pub async fn task(&self, effect: Effect) -> Result<Task, Error> {
        let mut copy = self.inner.cache.lock(effect.group).await;
        fill(&mut copy, &self.inner.reader, effect.group, effect.kind.deployment()).await?;
        let task = copy.as_ref().map(|state| work::task_of(state, effect, &mut Cursors::new()));
        Ok(task.unwrap_or(Task::Nothing))
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

    async fn ask(&self, request: Request) -> Result<(), Error> {
        self.requests.send(request).await.map_err(|_| Error::Stopping)
    }
}

/// Who follows the logs of deployments.
#[derive(Debug)]
pub(crate) struct Watches {
    deployments: Mutex<HashMap<DeploymentId, watch::Sender<i64>>>,
    all: watch::Sender<u64>,
}

impl Default for Watches {
    fn default() -> Self {
        Self { deployments: Mutex::default(), all: watch::Sender::new(0) }
    }
}

impl Watches {
    fn of(&self, id: DeploymentId) -> watch::Receiver<i64> {
        let mut deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        deployments.retain(|_, sender| sender.receiver_count() > 0);
        deployments.entry(id).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    pub(crate) fn tell(&self, id: DeploymentId, seq: i64) {
        let deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = deployments.get(&id) {
            sender.send_replace(seq);
        }
    }

    pub(crate) fn tell_all(&self) {
        self.all.send_modify(|count| *count += 1);
    }
}
