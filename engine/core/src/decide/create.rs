//! New deployments and rollbacks.

use std::time::Duration;

use crate::batch_status::BatchStatus;
use crate::config::DeploymentConfig;
use crate::dependency::Without;
use crate::deployment_status::{DeploymentEvent, DeploymentStatus};
use crate::event::{EventData, EventType};
use crate::id::derived_in_order;
use crate::input::{Answer, Create, Refused, RollBack};
use crate::order::ScriptSet;
use crate::plan::{Plan, PlanInput, plan};
use crate::record::{Batch, Deployment, Flavor, PackageRef, Target};
use crate::rollback::History;
use crate::{DeploymentId, ServerId, TargetId, Timestamp};

use super::write::About;
use super::{DRAFT_KEPT, Decider};

/// What a new deployment is made from, besides its plan.
pub(super) struct Draft<'a> {
    pub(super) id: DeploymentId,
    pub(super) package: &'a PackageRef,
    pub(super) flavor: Flavor,
    pub(super) config: DeploymentConfig,
    pub(super) scripts: &'a ScriptSet,
    pub(super) parent: Option<DeploymentId>,
    pub(super) origin: Option<DeploymentId>,
    pub(super) restores: Option<DeploymentId>,
    pub(super) ignore_verify_reason: Option<String>,
    pub(super) stale_after: Duration,
    pub(super) ran_without: Vec<Without>,
}

impl Decider<'_> {
    pub(super) fn create(&mut self, create: &Create) -> Result<Answer, Refused> {
        let config = self.check_create(create)?;
        let made = plan(PlanInput {
            group: &self.state.group,
            servers: self.state.servers(),
            package: &create.package,
            flavor: create.flavor,
            config: &config,
            seed: create.seed.as_deref(),
        })?;
        if let Some(wanted) = create.plan_hash.as_ref().filter(|wanted| **wanted != made.plan_hash)
        {
            return Err(Refused {
                plan: Some(Box::new(made)),
                ..Refused::new(
                    "stale_plan",
                    format!("plan_hash: the plan is no longer {wanted}: look at it again"),
                )
            });
        }
        create.actor.clone_into(&mut self.actor);
        let id = self.new_id();
        let draft = Draft {
            id,
            package: &create.package,
            flavor: create.flavor,
            config,
            scripts: &create.scripts,
            parent: create.history.current().map(|past| past.id),
            origin: None,
            restores: None,
            ignore_verify_reason: create.ignore_verify_reason.clone(),
            stale_after: create.stale_after,
            ran_without: create.without.clone(),
        };
        self.insert(draft, &made);
        if create.start {
            self.begin(id);
        } else {
            self.wake_at(id, self.now + DRAFT_KEPT);
        }
        Ok(Answer::Created(id))
    }

    fn check_create(&self, create: &Create) -> Result<DeploymentConfig, Refused> {
        let dark = self.state.group.binding.may_go_dark;
        let config = DeploymentConfig::complete(&create.config, create.flavor, dark)
            .map_err(|error| Refused::new("invalid", error.to_string()))?;
        match create.flavor {
            Flavor::Rollout => {}
            Flavor::Scaleout => Self::check_scaleout(&create.package, &create.history)?,
            Flavor::Rollback | Flavor::Adopted => {
                return Err(Refused::new(
                    "invalid",
                    format!(
                        "flavor: {} is not allowed; rollout or scaleout are (a rollback is made \
                         by the group's rollback call)",
                        create.flavor.word()
                    ),
                ));
            }
        }
        if let Some(reason) = &create.bad {
            return Err(Refused::new(
                "package_bad",
                format!("package: version {} is marked as bad: {reason}", create.package.version),
            ));
        }
        let reason = create.ignore_verify_reason.as_deref().map_or("", str::trim);
        if config.ignore_verify && reason.is_empty() {
            return Err(Refused::new(
                "invalid",
                "ignore_verify_reason: empty is not allowed; ignore_verify needs a reason",
            ));
        }
        if create.start {
            self.check_free()?;
        }
        Ok(config)
    }

    /// S4: a scale-out takes only the package that the group runs now.
    pub(super) fn check_scaleout(package: &PackageRef, history: &History) -> Result<(), Refused> {
        match history.current() {
            Some(current) if current.package.id == package.id => Ok(()),
            Some(current) => Err(Refused::new(
                "package_not_proven",
                format!(
                    "package: {} is not allowed; a scaleout takes what the group runs now, {}",
                    package.version, current.package.version
                ),
            )),
            None => Err(Refused::new(
                "package_not_proven",
                "package: the group has no version that reached SUCCESS; use a rollout",
            )),
        }
    }

    /// S6: one deployment at a time holds the group.
    pub(super) fn check_free(&self) -> Result<(), Refused> {
        let Some(running) = self.state.running() else { return Ok(()) };
        let deployment = &running.deployment;
        Err(Refused {
            deployment: Some(deployment.id),
            allowed: super::command::allowed(self.state, deployment.id),
            ..Refused::new(
                "deployment_running",
                format!(
                    "the group has a deployment under way: {} of version {} is {}",
                    deployment.id,
                    deployment.package.version,
                    deployment.status.shown(deployment.is_braked())
                ),
            )
        })
    }

    pub(super) fn roll_back(&mut self, rollback: &RollBack) -> Result<Answer, Refused> {
        let dark = self.state.group.binding.may_go_dark;
        let config = DeploymentConfig::complete(&rollback.config, Flavor::Rollback, dark)
            .map_err(|error| Refused::new("invalid", error.to_string()))?;
        if config.ignore_verify {
            return Err(Refused::new(
                "invalid",
                "ignore_verify: true is not allowed; a rollback brings back what was proven",
            ));
        }
        let choice = rollback.history.choose(rollback.to)?;
        rollback.actor.clone_into(&mut self.actor);
        // The end of the running deployment gives servers back, so the plan is made after it. From
        // here on nothing is refused any more.
        let revoked = self.revoke_running();
        let made = plan(PlanInput {
            group: &self.state.group,
            servers: self.state.servers(),
            package: &choice.restores.package,
            flavor: Flavor::Rollback,
            config: &config,
            seed: choice.origin.map(|origin| origin.seed.as_str()),
        });
        let Ok(made) = made else { return Ok(Answer::NothingToRollBack { revoked }) };
        let id = self.new_id();
        if let Some(revoked) = revoked {
            self.change_deployment(revoked, |deployment| deployment.superseded_by = Some(id));
        }
        let draft = Draft {
            id,
            package: &choice.restores.package,
            flavor: Flavor::Rollback,
            config,
            scripts: &rollback.scripts,
            parent: rollback.history.current().map(|past| past.id),
            origin: choice.origin.map(|past| past.id),
            restores: Some(choice.restores.id),
            ignore_verify_reason: None,
            stale_after: rollback.stale_after,
            ran_without: rollback.without.clone(),
        };
        self.insert(draft, &made);
        self.begin(id);
        Ok(Answer::Created(id))
    }

    fn revoke_running(&mut self) -> Option<DeploymentId> {
        let running = self.state.running().map(|state| state.deployment.id)?;
        self.move_deployment(running, DeploymentEvent::RevokeAsked);
        Some(running)
    }

    /// A new deployment's id: the group's version and the number of deployments at hand make it
    /// differ from every other of this instant.
    fn new_id(&self) -> DeploymentId {
        let group = self.state.id();
        let version = self.state.group.version.to_be_bytes();
        let at_hand = (self.state.deployments().count() as u64).to_be_bytes();
        DeploymentId::derive(self.now, &[group.0.as_bytes(), &version, &at_hand, b"deployment"])
    }

    pub(super) fn insert(&mut self, draft: Draft<'_>, made: &Plan) {
        let id = draft.id;
        let batches = made.batches.iter().map(|batch| Batch {
            deployment: id,
            index: batch.index,
            is_bastion: batch.is_bastion,
            status: BatchStatus::Pending,
            wait_until: None,
            ended_at: None,
        });
        let batches: Vec<Batch> = batches.collect();
        let targets = self.new_targets(id, made);
        let changes = self.changes.deployments.entry(id).or_default();
        changes.created = true;
        changes.batches.extend(batches.iter().map(|batch| batch.index));
        changes.targets.extend(0..targets.len());
        let deployment = self.new_deployment(draft, made);
        self.state.insert(deployment, batches, targets);
        let state = self.of(id);
        let data = EventData {
            to: Some(state.deployment.status.word().to_owned()),
            version: Some(state.deployment.package.version.clone()),
            message: Some(format!(
                "{} of {} to {} servers in {} batches",
                state.deployment.flavor.word(),
                state.deployment.package.version,
                state.targets().len(),
                state.batches().len()
            )),
            ..self.figures(id)
        };
        self.event(id, EventType::DeploymentCreated, &About::default(), data);
    }

    fn new_targets(&self, id: DeploymentId, made: &Plan) -> Vec<Target> {
        let planned = made
            .batches
            .iter()
            .flat_map(|batch| batch.servers.iter().map(|server| (batch.index, server.server)));
        planned
            .filter_map(|(batch, server)| Some((batch, self.state.server(server)?)))
            .zip(0..)
            .map(|((batch, server), place)| {
                let target = planned_id(id, server.id, place, self.now);
                Target::new(target, id, batch, place, server, self.now)
            })
            .collect()
    }

    fn new_deployment(&self, draft: Draft<'_>, made: &Plan) -> Deployment {
        Deployment {
            id: draft.id,
            group: self.state.id(),
            package: draft.package.clone(),
            config: draft.config,
            flavor: draft.flavor,
            status: DeploymentStatus::Pending,
            holds: Vec::new(),
            failed_seen: 0,
            total: made.total,
            frozen: self.state.group.binding.clone().with_stale_after(draft.stale_after),
            scripts: draft.scripts.clone(),
            parent: draft.parent,
            origin: draft.origin,
            restores: draft.restores,
            baked: false,
            superseded_by: None,
            created_by: self.actor.clone(),
            ignore_verify_reason: draft.ignore_verify_reason,
            seed: made.seed.clone(),
            plan_hash: made.plan_hash.clone(),
            seq: 0,
            created_at: self.now,
            started_at: None,
            ended_at: None,
            status_since: self.now,
            stale: false,
            ran_without: draft.ran_without,
        }
    }
}

/// The id of a target that is made with its deployment. Those that come later are not numbered by
/// their place: that tells the two apart (see [`is_planned`]).
fn planned_id(
    deployment: DeploymentId,
    server: ServerId,
    place: u32,
    created_at: Timestamp,
) -> TargetId {
    let names: &[&[u8]] = &[deployment.0.as_bytes(), server.0.as_bytes(), b"target"];
    TargetId(derived_in_order(created_at, place, names))
}

/// Whether a target stood in the plan that its deployment was made with.
pub(super) fn is_planned(deployment: &Deployment, target: &Target) -> bool {
    target.id == planned_id(deployment.id, target.server, target.place, deployment.created_at)
}
