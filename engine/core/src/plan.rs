//! Which servers a deployment visits, in which order, in which batches: a pure function of rows.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::ServerId;
use crate::config::{BatchPattern, DeploymentConfig};
use crate::dependency::{Traffic, holding, load_balancer};
use crate::input::Refused;
use crate::order::hex;
use crate::record::{BastionRule, Binding, Flavor, Group, OutBecause, PackageRef, Server, Service};
use crate::slots::{Census, Slots};
use crate::spread::spread;

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The group.
    pub group: &'a Group,
    /// Its servers, retired ones too.
    pub servers: &'a [Server],
    /// The package.
    pub package: &'a PackageRef,
    /// What it is for.
    pub flavor: Flavor,
    /// The strategy.
    pub config: &'a DeploymentConfig,
    /// Seed of the order; none: made from group, package and CMDB revision.
    pub seed: Option<&'a str>,
}

/// A server and why it stands where it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    /// The server.
    pub server: ServerId,
    /// Its host name (and instance).
    pub hostname: String,
    /// Why.
    pub why: String,
}

/// One planned batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedBatch {
    /// Its place, from 1.
    pub index: u32,
    /// Whether it is the bastion batch.
    pub is_bastion: bool,
    /// Its servers, in the order in which they start.
    pub servers: Vec<PlannedServer>,
}

/// One planned server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedServer {
    /// The server.
    pub server: ServerId,
    /// Its host name (and instance).
    pub hostname: String,
}

/// What a deployment would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Seed of the order.
    pub seed: String,
    /// Members of the group: of which every share is a share.
    pub total: u32,
    /// How many servers the strategy allows to be out.
    pub b: u32,
    /// How many may be out when a server in service is taken; see S1.
    pub l: u32,
    /// How many servers in service may be taken now.
    pub free: u32,
    /// Who is out now, and why.
    pub out: Vec<Named>,
    /// Who is left out, and why.
    pub left_out: Vec<Named>,
    /// Who goes when.
    pub batches: Vec<PlannedBatch>,
    /// How many failed servers brake.
    pub failure_limit: u32,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// Waits between batches, plus settle time per batch and a nominal time of
    /// [`NOMINAL_BATCH_SECONDS`] per batch for everything that is not known before.
    pub estimated_seconds: u64,
    /// Digest of seed, config, total, B, L, batches and who is left out.
    pub plan_hash: String,
}

/// Nominal seconds per batch for drain, download, install and start, used in the estimate only.
pub const NOMINAL_BATCH_SECONDS: u64 = 15;

/// Makes the plan.
///
/// # Errors
/// `empty_plan` when no server would be visited (S10).
pub fn plan(input: PlanInput<'_>) -> Result<Plan, Refused> {
    let members: Vec<&Server> = input.servers.iter().filter(|server| !server.retired).collect();
    let census = Census::of(members.iter().copied());
    let slots = Slots::new(
        census.members,
        census,
        input.config.max_unavailable,
        input.group.binding.may_go_dark,
    )
    .under(Traffic::of(&input.group.dependencies, &input.group.binding));
    let seed = input.seed.map_or_else(|| default_seed(&input), str::to_owned);
    let (left_out, visited) = leave_out(&input, &members);
    if visited.is_empty() {
        return Err(Refused::new(
            "empty_plan",
            format!(
                "no server of group {} would be visited: {} of {} servers are left out",
                input.group.binding.group,
                left_out.len(),
                members.len()
            ),
        ));
    }
    let mut notes = notes(&input, slots);
    let bastions = if has_bastion(input.group, input.flavor) {
        bastions(&visited, slots, &mut notes)
    } else {
        Vec::new()
    };
    let chosen: BTreeSet<ServerId> = bastions.iter().map(|server| server.id).collect();
    let normal = ordered(&seed, visited.iter().filter(|server| !chosen.contains(&server.id)));
    let batches = batches(&bastions, &cut(&normal, slots, input.config));
    let mut plan = Plan {
        estimated_seconds: estimate(&input, &batches),
        seed,
        total: slots.total,
        b: slots.b,
        l: slots.l,
        free: slots.free(),
        out: members.iter().filter(|server| server.is_out()).map(|server| out(server)).collect(),
        left_out,
        batches,
        failure_limit: input.config.failure_limit(slots.total),
        notes,
        plan_hash: String::new(),
    };
    plan.plan_hash = plan_hash(&plan, &input);
    Ok(plan)
}

/// What is broken or cut off, and what follows for the release.
fn notes(input: &PlanInput<'_>, slots: Slots) -> Vec<String> {
    let (dependencies, binding) = (&input.group.dependencies, &input.group.binding);
    let mut notes: Vec<String> = holding(dependencies, binding)
        .into_iter()
        .map(|(name, impaired)| format!("{}: the deployment holds", impaired.sentence(name)))
        .collect();
    let balancer = load_balancer(&binding.load_balancer);
    if let (Some(most), Some(impaired)) = (slots.most_ours, dependencies.get(&balancer)) {
        notes.push(format!(
            "{}: Markdown and Markup are bypassed, at most {most} servers are out by us at a time, and \
             what is drained already stays out until the load balancer is back",
            impaired.sentence(&balancer)
        ));
    }
    notes
}

/// Whether the plan begins with a bastion batch (S4).
pub fn has_bastion(group: &Group, flavor: Flavor) -> bool {
    flavor == Flavor::Rollout && group.application.bastion == BastionRule::One
}

/// Host name and instance, as people name a server.
pub fn label(hostname: &str, instance: &str) -> String {
    if instance.is_empty() { hostname.to_owned() } else { format!("{hostname}/{instance}") }
}

fn named(server: &Server, why: String) -> Named {
    Named { server: server.id, hostname: label(&server.hostname, &server.instance), why }
}

fn out(server: &Server) -> Named {
    let why = match (&server.pulled_out, server.out_because) {
        (Some(pulled), _) => format!("pulled out by {}: {}", pulled.by, pulled.reason),
        (None, Some(OutBecause::Dead)) => "does not answer".to_owned(),
        (None, _) if server.markup_owed.is_some() => {
            "drained, released while its load balancer was bypassed, and not seen in traffic since"
                .to_owned()
        }
        (None, Some(OutBecause::Target)) => "taken out by a deployment".to_owned(),
        (None, Some(OutBecause::Bypassed)) => {
            "taken by a deployment while its load balancer was bypassed".to_owned()
        }
        (None, Some(OutBecause::Person)) => "pulled out, and not verified again yet".to_owned(),
        (None, Some(OutBecause::Outside)) => "taken out at the load balancer".to_owned(),
        (None, Some(OutBecause::LateMark)) => "its drain came late and is being undone".to_owned(),
        (None, Some(OutBecause::New)) => "new".to_owned(),
        (None, None) => "never looked at".to_owned(),
    };
    named(server, why)
}

fn leave_out<'a>(input: &PlanInput<'_>, members: &[&'a Server]) -> (Vec<Named>, Vec<&'a Server>) {
    let mut left_out = Vec::new();
    let mut visited = Vec::new();
    for server in members.iter().copied() {
        let right = server.proves(input.package.id);
        let serving = server.service == Service::In;
        match (&server.pulled_out, input.flavor) {
            (Some(pulled), _) => left_out
                .push(named(server, format!("pulled out by {}: {}", pulled.by, pulled.reason))),
            (None, Flavor::Rollback) if right && serving => {
                left_out.push(named(server, format!("already runs {}", input.package.version)));
            }
            (None, Flavor::Scaleout) if right => {
                left_out.push(named(server, format!("already runs {}", input.package.version)));
            }
            (None, _) => visited.push(server),
        }
    }
    (left_out, visited)
}

fn bastions<'a>(visited: &[&'a Server], slots: Slots, notes: &mut Vec<String>) -> Vec<&'a Server> {
    let mut by_name: Vec<&Server> = visited.to_vec();
    by_name.sort_by_key(|server| (&server.hostname, &server.instance, server.id));
    let free = slots.free() as usize;
    let serving = || by_name.iter().copied().filter(|server| server.service == Service::In);
    if free > 0 && serving().next().is_some() {
        let marked = marked_first_of_each_pool(serving().filter(|server| server.is_bastion));
        if marked.is_empty() {
            return serving().take(1).collect();
        }
        if marked.len() > free {
            notes.push(format!(
                "{} servers are marked as bastion and {free} may be taken at once: the others go \
                 with the normal batches",
                marked.len()
            ));
        }
        return marked.into_iter().take(free).collect();
    }
    let new = |server: &&Server| server.out_because == Some(OutBecause::New);
    let first = by_name
        .iter()
        .copied()
        .find(|server| server.is_out())
        .or_else(|| by_name.iter().copied().find(new))
        .or_else(|| by_name.first().copied());
    first.into_iter().collect()
}

/// Marked servers: the first of each IDC and pool, then the others; each part by host name.
fn marked_first_of_each_pool<'a>(marked: impl Iterator<Item = &'a Server>) -> Vec<&'a Server> {
    let mut seen = BTreeSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for server in marked {
        if seen.insert((&server.idc, &server.pool)) { &mut first } else { &mut rest }.push(server);
    }
    first.append(&mut rest);
    first
}

/// Out first, new last, the rest shuffled and spread; each part spread by the same rule.
fn ordered<'a, 'b: 'a>(
    seed: &str,
    servers: impl Iterator<Item = &'a &'b Server>,
) -> Vec<&'b Server> {
    let (mut out, mut new, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for server in servers.copied() {
        if server.is_out() {
            out.push(server);
        } else if server.out_because == Some(OutBecause::New) {
            new.push(server);
        } else {
            rest.push(server);
        }
    }
    [out, rest, new].into_iter().flat_map(|part| spread(seed, part)).collect()
}

fn cut<'a, 'b>(
    normal: &'a [&'b Server],
    slots: Slots,
    config: &DeploymentConfig,
) -> Vec<&'a [&'b Server]> {
    let size = |part: u32| (part.max(1)) as usize;
    let (parts, repeat): (Vec<usize>, usize) = match &config.batch_pattern {
        None => (Vec::new(), size(slots.b)),
        Some(BatchPattern::Repeated(share)) => (Vec::new(), size(share.of(slots.total))),
        Some(BatchPattern::Parts(shares)) => {
            let but_last = &shares[..shares.len() - 1];
            (but_last.iter().map(|share| size(share.of(slots.total))).collect(), normal.len())
        }
    };
    let mut rest = normal;
    let mut cuts = Vec::new();
    for part in parts.into_iter().chain(std::iter::repeat(repeat.max(1))) {
        if rest.is_empty() {
            break;
        }
        let (batch, left) = rest.split_at(part.min(rest.len()));
        cuts.push(batch);
        rest = left;
    }
    cuts
}

fn batches(bastions: &[&Server], normal: &[&[&Server]]) -> Vec<PlannedBatch> {
    let planned = |servers: &[&Server]| {
        servers
            .iter()
            .map(|server| PlannedServer {
                server: server.id,
                hostname: label(&server.hostname, &server.instance),
            })
            .collect()
    };
    let bastion = (!bastions.is_empty()).then(|| (true, planned(bastions)));
    bastion
        .into_iter()
        .chain(normal.iter().map(|servers| (false, planned(servers))))
        .zip(1..)
        .map(|((is_bastion, servers), index)| PlannedBatch { index, is_bastion, servers })
        .collect()
}

fn estimate(input: &PlanInput<'_>, batches: &[PlannedBatch]) -> u64 {
    let settle = u64::from(input.group.binding.settle_seconds);
    let normal = batches.iter().filter(|batch| !batch.is_bastion).count();
    let waits: u64 = (0..normal).map(|place| input.config.wait_before(place).as_secs()).sum();
    waits + batches.len() as u64 * (settle + NOMINAL_BATCH_SECONDS)
}

/// The seed when nobody gave one: hexadecimal SHA-256 of group, package digest and CMDB revision.
fn default_seed(input: &PlanInput<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update(input.group.id.0.as_bytes());
    hash.update(input.package.sha256.as_bytes());
    hash.update(input.group.cmdb_revision.to_be_bytes());
    hex(&hash.finalize())[..16].to_owned()
}

fn plan_hash(plan: &Plan, input: &PlanInput<'_>) -> String {
    #[derive(Serialize)]
    struct Covered<'a> {
        seed: &'a str,
        package: &'a str,
        flavor: Flavor,
        config: &'a DeploymentConfig,
        total: u32,
        b: u32,
        l: u32,
        batches: &'a [PlannedBatch],
        left_out: Vec<ServerId>,
        /// What the CMDB says, which may have no revision.
        binding: &'a Binding,
        members: Vec<(ServerId, &'a str, u16, &'a str)>,
    }
    // In whatever order a process has them.
    let mut members: Vec<&Server> = input.servers.iter().filter(|server| !server.retired).collect();
    members.sort_unstable_by_key(|server| server.id);
    let mut left_out: Vec<ServerId> = plan.left_out.iter().map(|named| named.server).collect();
    left_out.sort_unstable();
    let covered = Covered {
        seed: &plan.seed,
        package: &input.package.sha256,
        flavor: input.flavor,
        config: input.config,
        total: plan.total,
        b: plan.b,
        l: plan.l,
        batches: &plan.batches,
        left_out,
        binding: &input.group.binding,
        members: members
            .into_iter()
            .map(|it| (it.id, it.ip_address.as_str(), it.port, it.root.as_str()))
            .collect(),
    };
    let text = serde_json::to_vec(&covered).expect("a plan can be written as JSON");
    hex(&Sha256::digest(text))
}
