//! Adoption: the first deployment of a group that came to Capstan with a version running.

use crate::batch_status::BatchStatus;
use crate::config::{ConfigRequest, DeploymentConfig};
use crate::deployment_status::DeploymentStatus;
use crate::event::{EventData, EventType};
use crate::input::{Answer, Refused};
use crate::order::ScriptSet;
use crate::plan::{PlanInput, plan};
use crate::record::{Flavor, OutBecause, PackageRef, Running, Service};
use crate::rollback::History;
use crate::target_status::TargetStatus;
use crate::{DeploymentId, ServerId, Timestamp};

use super::Decider;
use super::create::Draft;
use super::write::About;

impl Decider<'_> {
    /// What hosts report counts only as long as no release has touched them: later it would hide
    /// what a release did, and what a rollback goes back to.
    pub(super) fn check_untouched(&self, history: &History) -> Result<(), Refused> {
        let running = self.state.running().map(|state| state.deployment.id);
        let past = history.0.first().map(|past| past.id);
        // The history was read before this decision; what came since shows on the servers.
        let is_touched =
            self.state.servers().iter().any(|row| row.fence > 0 || row.running.is_some());
        let deployment = running.or(past);
        if deployment.is_none() && !is_touched {
            return Ok(());
        }
        Err(Refused {
            deployment,
            ..Refused::new(
                "already_adopted",
                "the group has had a deployment: what its hosts report is not adopted any more",
            )
        })
    }

    pub(super) fn adopt(
        &mut self,
        package: &PackageRef,
        scripts: &ScriptSet,
        servers: &[ServerId],
    ) -> Result<Answer, Refused> {
        let zero = Timestamp::from_micros(0);
        let group = self.state.id();
        let id = DeploymentId::derive(zero, &[group.0.as_bytes(), b"adopted"]);
        let config = DeploymentConfig::complete(
            &ConfigRequest::default(),
            Flavor::Adopted,
            self.state.group.binding.may_go_dark,
        )
        .map_err(|error| Refused::new("invalid", error.to_string()))?;
        let mut made = plan(PlanInput {
            group: &self.state.group,
            servers: self.state.servers(),
            package,
            flavor: Flavor::Adopted,
            config: &config,
            seed: None,
        })?;
        for batch in &mut made.batches {
            batch.servers.retain(|planned| servers.contains(&planned.server));
        }
        made.batches.retain(|batch| !batch.servers.is_empty());
        if made.batches.is_empty() {
            return Err(Refused::new(
                "empty_plan",
                "no server of the group reported that it runs this package",
            ));
        }
        for (batch, index) in made.batches.iter_mut().zip(1..) {
            batch.index = index;
        }
        let draft = Draft {
            id,
            package,
            flavor: Flavor::Adopted,
            config,
            scripts,
            parent: None,
            origin: None,
            restores: None,
            ignore_verify_reason: None,
            stale_after: super::STALE_AFTER,
            ran_without: Vec::new(),
        };
        self.insert(draft, &made);
        self.prove_adopted(id, package);
        Ok(Answer::Created(id))
    }

    /// What the hosts reported stands for the whole chain: every row is final from the start.
    fn prove_adopted(&mut self, id: DeploymentId, package: &PackageRef) {
        let now = self.now;
        for place in 0..self.of(id).targets().len() {
            self.change_target(id, place, |target| {
                target.status = TargetStatus::Success;
                target.skipped = true;
                target.verified_at = Some(now);
            });
            let server = self.target(id, place).server;
            let running = Running {
                package: package.id,
                version: package.version.clone(),
                proven_at: Some(now),
            };
            self.change_server(server, |server| {
                server.running = Some(running);
                // What runs a version may be serving it, whatever the record took it for.
                if server.service == Service::Out && server.out_because == Some(OutBecause::New) {
                    server.service = Service::Unknown;
                    server.out_because = None;
                }
            });
        }
        if let Some(state) = self.state.deployment_mut(id) {
            for batch in &mut state.batches {
                batch.status = BatchStatus::Success;
                batch.ended_at = Some(now);
            }
        }
        self.change_deployment(id, |deployment| {
            deployment.status = DeploymentStatus::Success;
            deployment.started_at = Some(now);
            deployment.ended_at = Some(now);
        });
        let data = EventData {
            to: Some(DeploymentStatus::Success.word().to_owned()),
            version: Some(package.version.clone()),
            message: Some("the group already ran this version when it came to Capstan".into()),
            ..self.figures(id)
        };
        self.event(id, EventType::DeploymentStatus, &About::default(), data);
    }
}
