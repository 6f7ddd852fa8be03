//! `capstan deployment …`

mod create;
pub(crate) mod rollback;
mod show;

use capstan_core::action::Action;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::view::DeploymentView;
use serde_json::json;

use self::create::{CreateArgs, PlanArgs};
use self::rollback::RollbackArgs;
use super::context::Context;
use super::error::Error;
use super::list::PageArgs;
use super::lookup::DeploymentArgs;
use super::moment;
use super::summary;
use super::watch::{self, Begin, WatchArgs};

/// Releases: one package to one group, batch by batch.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeploymentCommand {
    /// Shows what a deployment would do; changes nothing.
    ///
    /// Tells in plain words how many servers may be out, who goes in which batch, who is left out and
    /// what would brake it. Next: `deployment create` with the same options; --plan-hash makes sure
    /// that the plan is still this one.
    #[command(after_help = "Example:\n  capstan deployment plan --group web-prod --package 1.1.0 \
                            --max-unavailable 20 --batch-pattern 10%")]
    Plan(PlanArgs),
    /// Creates a deployment and starts it, or only plans it with --draft.
    ///
    /// The group is refreshed from the CMDB and every server is looked at first. A rollout begins with
    /// its bastion batch, verifies, and waits: then `deployment bake` gives the bastions production
    /// traffic, and `deployment rollout` starts the other batches.
    #[command(
        after_help = "Examples:\n  capstan deployment create --group web-prod --package 1.1.0 --watch\n  \
                            capstan deployment create --group web-prod --package 1.1.0 --mode manual \
                            --batch-pattern 10%+40%+50% --max-unavailable 50"
    )]
    Create(Box<CreateArgs>),
    /// Lists deployments, newest first.
    ///
    /// Next: `deployment show ID`, `deployment watch ID`.
    #[command(after_help = "Example:\n  capstan deployment list --group web-prod --running")]
    List(ListArgs),
    /// Shows where a deployment stands.
    ///
    /// Tells its progress, why it is braked, what it waits for and since when, and what can be asked
    /// of it now.
    #[command(after_help = "Example:\n  capstan deployment show --group web-prod")]
    Show(DeploymentArgs),
    /// Starts a deployment that was created with --draft.
    ///
    /// The group is refreshed first: servers that left are set aside, new ones get a last batch.
    #[command(after_help = "Example:\n  capstan deployment start --group web-prod --watch")]
    Start(ActArgs),
    /// Brings the bastions into production traffic.
    ///
    /// Allowed once they verified (`SMOKE_SUCCESS`). Next, when they serve well: `deployment rollout`.
    #[command(after_help = "Example:\n  capstan deployment bake --group web-prod")]
    Bake(ActArgs),
    /// Starts the next batch.
    ///
    /// After the bake it starts the normal batches. In manual mode each batch waits for this; in auto
    /// mode it cuts a wait short. With --batch it is refused unless that batch is the next one.
    #[command(after_help = "Example:\n  capstan deployment rollout --group web-prod --batch 3")]
    Rollout {
        #[command(flatten)]
        act: ActArgs,
        /// The batch that is meant.
        #[arg(long, value_name = "INDEX")]
        batch: Option<u32>,
    },
    /// Runs what failed once more.
    ///
    /// Servers that already run the version and verify are passed over. After a brake it also clears
    /// the holds that a retry may clear.
    #[command(after_help = "Example:\n  capstan deployment retry --group web-prod --watch")]
    Retry(ActArgs),
    /// Brakes: nothing new starts.
    ///
    /// Scripts that run on hosts already go on to the end of their stage. Next: `deployment resume`,
    /// `deployment retry` or `deployment rollback`.
    #[command(after_help = "Example:\n  capstan deployment brake --group web-prod")]
    Brake(ActArgs),
    /// Goes on after a brake.
    ///
    /// Clears every hold that a person may clear. Refused, with the reason, if it can clear none.
    #[command(after_help = "Example:\n  capstan deployment resume --group web-prod")]
    Resume(ActArgs),
    /// Ends a deployment as REVOKED, at once.
    ///
    /// It waits for no host. Servers that are out stay out. Next: `deployment rollback`, or a new
    /// `deployment create`.
    #[command(after_help = "Example:\n  capstan deployment revoke --group web-prod")]
    Revoke(ActArgs),
    /// Ends a failed deployment as FAILURE.
    ///
    /// Allowed after a failure, or while it is braked and nothing is under way. Servers that are out
    /// stay out. Next: `deployment rollback`.
    #[command(after_help = "Example:\n  capstan deployment finish --group web-prod")]
    Finish(ActArgs),
    /// Replaces a deployment by a rollback of its group; starts at once.
    ///
    /// The deployment is revoked if it runs, and the group's newest good package before it comes back,
    /// or that of --to. No bastion batch. Next: `deployment watch --group NAME`, or --watch here.
    #[command(after_help = "Example:\n  capstan deployment rollback --group web-prod --watch")]
    Rollback {
        #[command(flatten)]
        deployment: DeploymentArgs,
        #[command(flatten)]
        rollback: RollbackArgs,
    },
    /// Lists the targets of a deployment: each server, its batch and where it stands.
    ///
    /// Next: `target log HOST --group NAME` shows what ran on one.
    #[command(
        after_help = "Example:\n  capstan deployment targets --group web-prod --status VERIFY_FAILURE"
    )]
    Targets(TargetsArgs),
    /// Lists what happened, in order and without gaps.
    ///
    /// `deployment watch` shows the same as it happens.
    #[command(after_help = "Example:\n  capstan deployment events --group web-prod --after 100")]
    Events(EventsArgs),
    /// Lists who asked for what, with which answer; refused ones too.
    ///
    /// Nothing is ever taken off this list.
    #[command(after_help = "Example:\n  capstan deployment actions --group web-prod")]
    Actions {
        #[command(flatten)]
        deployment: DeploymentArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Follows a deployment until it ends.
    ///
    /// Shows its state on a terminal, and a line for each event elsewhere; goes on after lost
    /// connections and misses nothing. Exit code: 0 SUCCESS, 1 FAILURE, 2 REVOKED, 3 it waits for a
    /// person (with --until-click), 4 Capstan cannot be reached. Leaving does not stop the deployment.
    #[command(
        after_help = "Example:\n  capstan deployment watch --group web-prod --until-click && echo done"
    )]
    Watch {
        #[command(flatten)]
        deployment: DeploymentArgs,
        #[command(flatten)]
        watch: WatchArgs,
        /// Begins with the first event; else with what happens from now on.
        #[arg(long)]
        from_start: bool,
    },
}

/// A click on a deployment.
#[derive(Debug, clap::Args)]
pub(crate) struct ActArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,
    /// Follows the deployment afterwards, as `deployment watch`.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    options: WatchArgs,
}

/// Which deployments.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those of this group.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only those with this status, like `ROLLING_OUT`.
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<DeploymentStatus>,
    /// Only those that hold their group: started and not ended.
    #[arg(long)]
    running: bool,
    #[command(flatten)]
    page: PageArgs,
}

/// Which targets.
#[derive(Debug, clap::Args)]
pub(crate) struct TargetsArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,
    /// Only those with this status, like `VERIFY_FAILURE`.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only those of this batch.
    #[arg(long, value_name = "INDEX")]
    batch: Option<u32>,
    #[command(flatten)]
    page: PageArgs,
}

/// Which events.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,
    /// Only events with a higher number.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// How many at most, 1 to 500.
    #[arg(long, value_name = "COUNT", default_value_t = 500,
        value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

fn status(text: &str) -> Result<DeploymentStatus, String> {
    DeploymentStatus::from_word(&text.to_ascii_uppercase()).ok_or_else(|| {
        let words: Vec<&str> = DeploymentStatus::ALL.iter().map(|status| status.word()).collect();
        format!("write one of {}", words.join(", "))
    })
}

/// Runs a command; gives the exit code.
pub(crate) async fn run(context: &Context, command: DeploymentCommand) -> Result<u8, Error> {
    use DeploymentCommand as Command;
    match command {
        Command::Plan(args) => create::plan(context, &args).await?,
        Command::Create(args) => return create::create(context, &args).await,
        Command::List(args) => show::list(context, args).await?,
        Command::Show(args) => show::show(context, &args).await?,
        Command::Start(args) => return act(context, Action::Start, args, None).await,
        Command::Bake(args) => return act(context, Action::Bake, args, None).await,
        Command::Rollout { act: args, batch } => {
            return act(context, Action::Rollout, args, batch).await;
        }
        Command::Retry(args) => return act(context, Action::Retry, args, None).await,
        Command::Brake(args) => return act(context, Action::Brake, args, None).await,
        Command::Resume(args) => return act(context, Action::Resume, args, None).await,
        Command::Revoke(args) => return act(context, Action::Revoke, args, None).await,
        Command::Finish(args) => return act(context, Action::Finish, args, None).await,
        Command::Rollback { deployment, rollback } => {
            let id = context.client.deployment_id(&deployment).await?.to_string();
            let view: DeploymentView = context.client.read(&["deployments", &id]).await?;
            return rollback::roll_back(context, view.group, &rollback).await;
        }
        Command::Targets(args) => show::targets(context, args).await?,
        Command::Events(args) => show::events(context, args).await?,
        Command::Actions { deployment, page } => show::actions(context, &deployment, &page).await?,
        Command::Watch { deployment, watch, from_start } => {
            let id = context.client.deployment_id(&deployment).await?;
            let begin = if from_start { Begin::WithTheFirst } else { Begin::Now };
            return watch::run(context, id, begin, &watch).await;
        }
    }
    Ok(0)
}

/// Asks something of a deployment.
async fn act(
    context: &Context,
    action: Action,
    args: ActArgs,
    batch: Option<u32>,
) -> Result<u8, Error> {
    let id = context.client.deployment_id(&args.deployment).await?;
    let path = ["deployments", &id.to_string(), action.word()];
    let body = batch.map(|batch| json!({"batch": batch}));
    let answer = context.client.post(&path, body).await?;
    if args.watch || args.options.until_click {
        let begin = Begin::After(answer.read::<DeploymentView>()?.last_seq);
        return watch::run(context, id, begin, &args.options).await;
    }
    context.show(&answer, |view| text(&view))?;
    Ok(0)
}

/// A deployment as text.
fn text(view: &DeploymentView) -> String {
    summary::lines(view, moment::now()).join("\n") + "\n"
}
