//! What must be true after every input, whatever came in.

use capstan_core::batch_status::BatchStatus;
use capstan_core::checker;
use capstan_core::dependency::{Traffic, holding};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::effect::EffectKind;
use capstan_core::order;
use capstan_core::record::{HoldReason, OutBecause, Server, Service};
use capstan_core::state::{DeploymentState, GroupState};
use capstan_core::target_status::TargetStatus;
use capstan_core::view::WaitKind;
use capstan_core::{decide, event};

use super::{Host, World};

pub fn after_input(world: &World) {
    let rebuilt = world.shadow.rebuild();
    assert!(rebuilt.group == world.state.group, "the group's row was changed and not noted");
    assert_eq!(rebuilt.servers(), world.state.servers(), "a server was changed and not noted");
    for state in world.state.deployments() {
        let other = rebuilt.deployment(state.deployment.id).expect("it was written");
        assert_eq!(other.deployment, state.deployment, "a deployment was changed and not noted");
        assert_eq!(other.batches(), state.batches(), "a batch was changed and not noted");
        assert_eq!(other.targets(), state.targets(), "a target was changed and not noted");
        assert!(state.recount(&world.state), "the counts that are kept agree with the rows");
    }
    assert!(rebuilt == world.state, "a fresh start finds the same state");
    let running = |state: &&DeploymentState| state.deployment.status.is_running();
    assert!(world.state.deployments().filter(running).count() <= 1, "S6");
    for server in world.state.servers().iter().filter(|server| server.pulled_out.is_some()) {
        assert!(server.is_out() && server.service != Service::In, "S1: pulled out is out");
        assert!(server.drained, "pulled out carries our mark");
    }
    for server in world.state.servers().iter().filter(|server| !server.retired) {
        let late_mark = server.out_because == Some(OutBecause::LateMark);
        let admits = has_effect(world, EffectKind::AdmitServer(server.id));
        assert_eq!(late_mark, admits, "S13: a mark that came late is removed: {server:?}");
        let put_back = server.pulled_out.is_none()
            && server.out_because == Some(OutBecause::Person)
            && server.dead_since.is_some();
        let asked = has_effect(world, EffectKind::ReturnServer(server.id));
        assert!(!put_back || asked, "its answer was lost and nobody asks again: {server:?}");
    }
    for state in world.state.deployments() {
        check_deployment(world, state);
        check_bypass(world, state);
    }
    let asked = Traffic::of(&world.state.group.dependencies, world.state.binding());
    for server in world.state.servers().iter().filter(|server| !server.retired) {
        if server.markup_owed.is_none() {
            continue;
        }
        assert!(server.pulled_out.is_none(), "S12: who is pulled out owes nothing: {server:?}");
        assert!(server.is_out() || !server.drained, "S12: who is drained is out: {server:?}");
        let paid = has_effect(world, EffectKind::ReturnServer(server.id));
        assert!(paid || asked != Traffic::Asked, "S12: nobody pays: {server:?}");
    }
}

/// S12: what is bypassed is asked for nothing, and what may not be bypassed holds.
fn check_bypass(world: &World, state: &DeploymentState) {
    let row = &state.deployment;
    let asks = |target: &&capstan_core::record::Target| {
        target.status.running().is_some_and(|stage| !stage.is_order())
    };
    if world.state.traffic_of(row) == Traffic::Bypassed {
        assert_eq!(state.targets().iter().find(asks), None, "S12: a call to what is cut off");
    }
    if row.status.is_running() {
        let trouble = holding(&world.state.group.dependencies, &row.frozen);
        let hold = row.hold(HoldReason::Dependency);
        let doubted = hold.is_some_and(|hold| !hold.doubted.is_empty());
        assert_eq!(hold.is_some(), !trouble.is_empty() || doubted, "S12: {hold:?}, {trouble:?}");
    }
}

/// S1: a decision that takes a server in service leaves another one in service.
pub fn took(world: &World, events: &[event::Event]) {
    for event in events.iter().filter(|event| event.data.already_out == Some(false)) {
        let state = world.state.deployment(event.deployment.unwrap()).unwrap();
        let slots = world.state.slots(state);
        let alone = slots.total <= 1 || state.deployment.frozen.may_go_dark;
        assert!(slots.out <= slots.l, "S1: {slots:?}");
        assert!(alone || world.in_service() > 0, "S1: the last server in service was taken");
    }
}

/// S12: while the load balancer is bypassed, at most half of B are out by us.
pub fn took_from(world: &World, before: &GroupState, events: &[event::Event]) {
    for event in events.iter().filter(|event| event.data.already_out.is_some()) {
        let state = world.state.deployment(event.deployment.unwrap()).unwrap();
        let slots = world.state.slots(state);
        let ours =
            before.server(event.server.unwrap()).is_some_and(|row| row.is_out() && is_by_us(row));
        let most = slots.most_ours.unwrap_or(u32::MAX);
        assert!(ours || slots.ours <= most, "S12: {slots:?}");
    }
}

/// S1 as it is on the hosts: where a decision takes one that serves, and could be known to, those
/// that serve but for Capstan are no more than L.
pub fn took_in_truth(world: &World, before: &GroupState, events: &[event::Event]) {
    for event in events.iter().filter(|event| event.data.already_out.is_some()) {
        let server = event.server.unwrap();
        let Some(host) = world.hosts.get(&server) else { continue };
        let was_ours = before.server(server).is_some_and(is_taken);
        // One that carries our mark already gets no traffic: a drain that came late took it, not this.
        if was_ours || host.mark || !host.would_serve() || host.fresh {
            continue;
        }
        let state = world.state.deployment(event.deployment.unwrap()).unwrap();
        let taken = world.state.servers().iter().filter(|row| {
            let would_serve = world.hosts.get(&row.id).is_some_and(Host::would_serve);
            is_taken(row) && !row.retired && would_serve
        });
        let (taken, slots) = (taken.count(), world.state.slots(state));
        assert!(taken <= slots.l as usize, "S1: {taken} serve but for us, {slots:?}");
    }
}

/// Whether a server gets no traffic, or would get none, because of us: drained, taken while the load
/// balancer was bypassed, or with a mark that came late.
fn is_taken(row: &Server) -> bool {
    row.drained || is_by_us(row)
}

fn is_by_us(row: &Server) -> bool {
    row.out_because.is_some_and(OutBecause::is_ours)
}

fn has_effect(world: &World, kind: EffectKind) -> bool {
    world.shadow.effects.contains_key(&(kind.number(), kind.subject()))
}

fn check_deployment(world: &World, state: &DeploymentState) {
    let row = &state.deployment;
    let id = row.id;
    let wake = world.shadow.effects.get(&(2, id.0)).map(|effect| effect.due_at);
    let view = decide::view(&world.state, id).expect("it is loaded");
    assert_eq!(view.waiting_for.is_empty(), row.status.is_final(), "waiting_for");
    for target in state.targets() {
        check_target(world, state, target);
    }
    if row.status.is_final() {
        assert!(row.holds.is_empty(), "a final deployment is not braked");
        assert!(wake.is_none() && !has_effect(world, EffectKind::ObserveServers(id)));
        let open = |batch: &&capstan_core::record::Batch| {
            !matches!(batch.status, BatchStatus::Success | BatchStatus::Revoked)
        };
        assert_eq!(state.batches().iter().find(open), None, "every batch is at its end");
        let revoked = state.batches().iter().find(|batch| batch.status == BatchStatus::Revoked);
        let good = row.status == DeploymentStatus::Success;
        assert!(!good || revoked.is_none(), "SUCCESS with a revoked batch: {revoked:?}");
        return;
    }
    if row.status == DeploymentStatus::Pending {
        assert!(row.holds.is_empty(), "no hold beside PENDING");
        assert!(wake.is_some(), "a draft ends by itself");
        return;
    }
    assert!(has_effect(world, EffectKind::ObserveServers(id)), "S13: its servers are looked at");
    let waits = |kind: WaitKind| view.waiting_for.iter().any(|wait| wait.what == kind);
    let woken_now = wake.is_some_and(|due| due <= world.now);
    assert!(!waits(WaitKind::Predecessor) || woken_now, "nothing moves it: {view:?}");
    let click = waits(WaitKind::Click) || waits(WaitKind::Slot);
    assert!(!click || row.stale || wake.is_some(), "who waits for a person becomes stale");
    for batch in state.batches().iter().filter(|batch| batch.status == BatchStatus::Waiting) {
        let Some(until) = batch.wait_until else { continue };
        let timed = wake.is_some_and(|due| due <= until.max(world.now));
        let blocked = row.is_braked() || state.running_batch().is_some();
        assert!(timed || until <= world.now && blocked, "a wait that nothing ends");
    }
}

fn check_target(world: &World, state: &DeploymentState, target: &capstan_core::record::Target) {
    let id = state.deployment.id;
    let server = world.state.server(target.server).expect("targets have servers");
    let is_running = target.status.running().is_some();
    assert_eq!(
        is_running,
        has_effect(world, EffectKind::RunStage(id, target.id)),
        "S8: {target:?}"
    );
    if is_running {
        assert_eq!(server.order, target.order, "S7: one order per server at a time");
        let work = order::work(&state.deployment, target, server).expect("it can be done");
        assert_eq!((work.fence, Some(work.key)), (server.fence, target.order));
        assert!(work.act_at <= work.deadline_at);
        let kind = EffectKind::RunStage(id, target.id);
        let due_at = world.shadow.effects[&(kind.number(), kind.subject())].due_at;
        let held = state.deployment.holds.iter().map(|hold| hold.since);
        for stopped in held.chain(state.deployment.ended_at) {
            assert!(due_at <= stopped, "S2: {target:?} begins at {due_at}, held at {stopped}");
        }
    }
    if !state.deployment.status.is_running() {
        return;
    }
    let in_chain = matches!(
        target.status,
        TargetStatus::MarkdownRunning
            | TargetStatus::MarkdownSuccess
            | TargetStatus::MarkdownFailure
            | TargetStatus::DownloadRunning
            | TargetStatus::DownloadSuccess
            | TargetStatus::DownloadFailure
            | TargetStatus::InstallRunning
            | TargetStatus::InstallSuccess
            | TargetStatus::InstallFailure
    );
    assert!(!in_chain || server.is_out(), "S1: {target:?} has taken {server:?}");
    let gone = server.retired || server.pulled_out.is_some();
    let alone = matches!(target.status, TargetStatus::Success | TargetStatus::SetAside);
    assert!(!gone || alone || target.leaving && is_running, "{target:?} of a server that left");
    assert!(!target.leaving || gone, "leaving, and its server is there: {target:?}");
    let orphan = target.status == TargetStatus::SetAside && !gone;
    assert!(!orphan, "its server is back and nothing takes care of it: {target:?}");
    let returns = has_effect(world, EffectKind::ReturnServer(server.id));
    let new = server.out_because == Some(OutBecause::New);
    assert!(!(returns && new), "a new server is not returned");
}

/// S13: after a look at all servers, and when what was to be removed is removed, our mark is only where
/// the record wants it, or on a server that nobody gave an order to.
pub fn marks(world: &World) {
    for server in world.state.servers().iter().filter(|server| !server.retired && server.fence > 0)
    {
        let is_marked = world.can_drain && world.hosts[&server.id].mark;
        if is_marked && !server.drained && is_doubtful(server) {
            // Whoever is out unproven stays out until it has proved something.
            assert!(server.is_out(), "S5: a restored record does not know the mark: {server:?}");
            continue;
        }
        assert!(server.drained || !is_marked, "S13: our mark came late and stays: {server:?}");
    }
}

/// Its record comes from a backup, and it has proved nothing since.
fn is_doubtful(server: &Server) -> bool {
    let proven = server.running.as_ref().is_some_and(|running| running.proven_at.is_some());
    server.fence >= decide::RESTORED_FENCES && !proven
}

/// What must be true of the whole log.
pub fn logs(world: &World) {
    if let Err(found) = checker::check(&world.shadow.events) {
        for violation in &found {
            eprintln!("{violation}");
        }
        panic!("{}", found[0]);
    }
    let outside: Vec<&event::Event> =
        world.shadow.events.iter().filter(|event| event.deployment.is_none()).collect();
    for (event, seq) in outside.iter().zip(1..) {
        assert_eq!(event.seq, seq, "the group's own log has no gaps");
    }
}
