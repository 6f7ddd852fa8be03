//! `capstan deployment plan` and `capstan deployment create`.

use capstan_core::plan::Plan;
use capstan_core::view::DeploymentView;
use serde_json::{Value, json};

use super::super::context::Context;
use super::super::error::Error;
use super::super::preview;
use super::super::strategy::{HEADING, StrategyArgs};
use super::super::watch::{self, Begin, WatchArgs};
use super::text;

/// What goes where, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// Name or id of the group.
    #[arg(long, value_name = "GROUP")]
    group: String,
    /// Version (or id) of the package.
    #[arg(long, value_name = "VERSION")]
    package: String,
    /// What it is for.
    #[arg(long, value_enum, default_value_t = Kind::Rollout)]
    flavor: Kind,
    #[command(flatten)]
    strategy: StrategyArgs,
    /// Chooses the order of servers; the same seed gives the same order [default: made from group,
    /// package and CMDB revision].
    #[arg(long, value_name = "TEXT", help_heading = HEADING)]
    seed: Option<String>,
    /// Forgives a failed health answer, for this reason; never a wrong version or a dead process.
    #[arg(long, value_name = "REASON", help_heading = HEADING)]
    ignore_verify: Option<String>,
}

/// A new deployment.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Refused unless the plan is still the one with this hash, see `deployment plan`.
    #[arg(long, value_name = "HASH")]
    plan_hash: Option<String>,
    /// Plans it and does not start it: look at it, then `deployment start`.
    #[arg(long, conflicts_with_all = ["watch", "until_click"])]
    draft: bool,
    /// Follows the deployment until it ends, as `deployment watch`.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    options: WatchArgs,
}

/// What a deployment is for. A rollback has a command of its own.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// The package to the whole group.
    Rollout,
    /// The group's version to the servers that lack it.
    Scaleout,
}

impl PlanArgs {
    /// The part of the request that preview and creation share.
    fn request(&self) -> Value {
        let mut config = self.strategy.request();
        config.ignore_verify = self.ignore_verify.as_ref().map(|_| true);
        let flavor = match self.flavor {
            Kind::Rollout => "rollout",
            Kind::Scaleout => "scaleout",
        };
        let mut request = json!({"package": self.package, "flavor": flavor, "config": config});
        if let Some(seed) = &self.seed {
            request["seed"] = json!(seed);
        }
        request
    }
}

/// Shows what a deployment would do.
pub(super) async fn plan(context: &Context, args: &PlanArgs) -> Result<(), Error> {
    let group = context.client.group(&args.group).await?;
    let path = ["groups", &group.id.to_string(), "preview"];
    let answer = context.client.post(&path, Some(args.request())).await?;
    context.show(&answer, |plan: Plan| {
        let text = preview::render(&plan, &group.name, &args.package, context.width);
        let next = format!("capstan deployment create --plan-hash {}", plan.plan_hash);
        format!("{text}Nothing was changed. Next: {next} with the same options.\n")
    })
}

/// Creates a deployment.
pub(super) async fn create(context: &Context, args: &CreateArgs) -> Result<u8, Error> {
    let group = context.client.group(&args.plan.group).await?;
    let answer = context.client.post(&["deployments"], Some(request(args, group.id.0))).await?;
    let view: DeploymentView = answer.read()?;
    if args.watch || args.options.until_click {
        return watch::run(context, view.id, Begin::WithTheFirst, &args.options).await;
    }
    context.show(&answer, |view: DeploymentView| {
        let verb = if args.draft { "start" } else { "watch" };
        format!("{}Next: capstan deployment {verb} {}\n", text(&view), view.id)
    })?;
    Ok(0)
}

fn request(args: &CreateArgs, group: impl serde::Serialize) -> Value {
    let mut request = args.plan.request();
    request["group"] = json!(group);
    request["start"] = json!(!args.draft);
    if let Some(reason) = &args.plan.ignore_verify {
        request["ignore_verify_reason"] = json!(reason);
    }
    if let Some(hash) = &args.plan_hash {
        request["plan_hash"] = json!(hash);
    }
    request
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn body(line: &str) -> Value {
        let words = std::iter::once("create").chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).expect("good arguments");
        request(&arguments.create, "G")
    }

    #[test]
    fn what_is_left_out_is_left_to_capstan() {
        let expected = json!({
            "group": "G", "package": "1.1.0", "flavor": "rollout", "config": {}, "start": true
        });
        assert_eq!(body("--group g --package 1.1.0"), expected);
    }

    #[test]
    fn every_option_finds_its_field() {
        let expected = json!({
            "group": "G", "package": "1.1.0", "flavor": "scaleout", "start": false,
            "seed": "s", "plan_hash": "h", "ignore_verify_reason": "broken-page",
            "config": {
                "max_unavailable": 25, "batch_pattern": "10%", "max_failure": 0,
                "mode": "manual", "batch_wait_seconds": 30, "tail_wait_seconds": 60,
                "startup_timeout_seconds": 90, "ignore_verify": true
            }
        });
        let line = "--group g --package 1.1.0 --flavor scaleout --draft --seed s --plan-hash h \
                    --ignore-verify broken-page --max-unavailable 25% --batch-pattern 10% \
                    --max-failure 0 --mode manual --batch-wait 30s --tail-wait 1m \
                    --startup-timeout 1m30s";
        assert_eq!(body(line), expected);
    }
}
