//! One group, released to again and again until the time is up.

use std::collections::BTreeSet;
use std::time::Instant;

use capstan_core::deployment_status::DeploymentStatus;

use super::check::{Found, ran};
use super::drive::Drive;
use super::fleet::FIRST;
use super::plan::Plan;
use super::script::{Script, Scripts};
use super::world::World;

/// What was done to a group.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The deployments that were asked for, and how each shall have ended.
    pub(crate) deployments: Vec<(String, DeploymentStatus)>,
    /// What its hosts shall run now, but for those that are exempt.
    pub(crate) runs: String,
    pub(crate) exempt: BTreeSet<usize>,
    /// Scripts that came to their end.
    pub(crate) scripts: Vec<Script>,
    /// Retries of what no script broke.
    pub(crate) unasked: usize,
    /// What was seen to be wrong on the way.
    pub(crate) wrong: Vec<String>,
}

/// Which script each group plays next: all kinds come up early in a run, whatever the number of groups.
fn scripts(plan: &Plan, group: usize) -> Scripts {
    let mut scripts = Scripts::new(plan.rng(1));
    for _ in 0..group {
        scripts.draw();
    }
    scripts
}

/// Releases until `until`; what is under way then is driven to its end, by `by`.
pub(crate) async fn release(
    world: &World,
    plan: &Plan,
    group: usize,
    until: Instant,
    by: Instant,
) -> Done {
    let mut done = Done { runs: FIRST.to_owned(), ..Done::default() };
    let mut scripts = scripts(plan, group);
    let mut rng = plan.rng(1_000 + group as u64);
    for package in &world.fleet.packages[1..] {
        let script = scripts.draw();
        let drive = Drive {
            api: &world.api,
            fleet: &world.fleet,
            group,
            id: &world.groups[group],
            script,
            by,
            unasked: 0,
        };
        let ended = drive.run(&package.version, &mut rng).await;
        println!(
            "group {group}: {script:?} of {} ended, unasked: {}",
            package.version, ended.unasked
        );
        done.deployments.extend(ended.deployments);
        done.scripts.push(script);
        done.unasked += ended.unasked;
        match ended.runs {
            Some(runs) => {
                done.runs = runs;
                done.exempt.clear();
            }
            None => done.exempt.extend(ended.exempt),
        }
        let mut found = Found::default();
        for host in 0..world.fleet.size(group) {
            ran(&world.fleet.root(group, host), &mut found);
        }
        done.wrong.extend(found.wrong);
        if Instant::now() > until {
            break;
        }
    }
    done
}
