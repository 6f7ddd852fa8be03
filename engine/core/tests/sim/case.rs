//! A deployment as the tables' tests drive it: click, run, look.

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::batch_status::BatchStatus;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::view;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::record::Server;
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;
use capstan_core::{DeploymentId, ServerId};

use super::{Running, Setup, World, check};

/// A world and the deployment that a test is about.
pub struct Case {
    pub world: World,
    pub id: DeploymentId,
}

pub fn never(_: &World, _: &Running) -> bool {
    false
}

/// A rollout of version 1 to `servers` servers, started.
pub fn started(servers: u32, config: ConfigRequest) -> Case {
    marked(servers, 0, config)
}

pub fn marked(servers: u32, marked: u32, config: ConfigRequest) -> Case {
    let mut world = World::new(Setup { servers, marked, ..Setup::default() });
    let id = world.rollout(1, config);
    Case { world, id }
}

pub fn half() -> ConfigRequest {
    ConfigRequest { max_unavailable: Some(50), ..ConfigRequest::default() }
}

impl Case {
    pub fn status(&self) -> Status {
        self.world.of(self.id).deployment.status
    }

    pub fn run(&mut self) -> &mut Self {
        self.world.run_rounds(never, |_| {});
        self
    }

    /// Everything ends well but this stage.
    pub fn run_failing(&mut self, stage: Stage) -> &mut Self {
        self.world.run_rounds(|_, running| running.stage == stage, |_| {});
        self
    }

    pub fn act(&mut self, action: Action) -> &mut Self {
        self.world.act(self.id, action).unwrap();
        self
    }

    pub fn is(&mut self, status: Status) -> &mut Self {
        assert_eq!(self.status(), status);
        check::logs(&self.world);
        self
    }

    /// The servers of a batch, by place.
    pub fn batch(&self, index: u32) -> Vec<ServerId> {
        let targets = self.world.of(self.id).targets().iter();
        targets.filter(|target| target.batch == index).map(|target| target.server).collect()
    }

    pub fn batch_status(&self, index: u32) -> BatchStatus {
        self.world.of(self.id).batch(index).unwrap().status
    }

    pub fn target(&self, server: ServerId) -> Target {
        self.world.status_of(self.id, server)
    }

    pub fn server(&self, server: ServerId) -> &Server {
        self.world.state.server(server).unwrap()
    }

    pub fn die(&mut self, server: ServerId) -> &mut Self {
        self.world.hosts.get_mut(&server).unwrap().dead = true;
        self.world.look();
        self.world.pass(Duration::from_secs(6));
        self.world.look();
        self
    }

    pub fn revive(&mut self, server: ServerId) -> &mut Self {
        self.world.hosts.get_mut(&server).unwrap().dead = false;
        self
    }

    pub fn pull(&mut self, server: ServerId) -> &mut Self {
        self.world.pull_out(server).unwrap();
        self.world.drain();
        self
    }

    pub fn allowed(&self) -> Vec<Action> {
        view(&self.world.state, self.id).unwrap().allowed_actions
    }
}

pub fn verified(servers: u32, config: ConfigRequest) -> Case {
    let mut case = started(servers, config);
    case.is(Status::Smoking).run().is(Status::SmokeSuccess);
    case
}

pub fn baked(servers: u32, config: ConfigRequest) -> Case {
    let mut case = verified(servers, config);
    case.act(Action::Bake).is(Status::Baking).run().is(Status::BakeSuccess);
    case
}
