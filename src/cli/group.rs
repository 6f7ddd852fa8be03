//! `capstan group …`

use capstan_core::plan::label;
use capstan_core::view::{GroupView, Page, ServerView, VersionView};
use serde_json::json;

use super::context::{Context, word};
use super::deployment::rollback::{RollbackArgs, roll_back};
use super::error::Error;
use super::list::{PageArgs, items};
use super::moment;
use super::summary::field;
use super::table::{Fit, Table, clean};

/// An application's servers that serve together: the smallest unit of a release.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    /// Lists groups.
    ///
    /// Tells how many servers each has, how many are out, what it runs, and how fresh the cache of the
    /// CMDB is. Next: `deployment plan --group NAME --package VERSION`.
    #[command(after_help = "Example:\n  capstan group list --application web")]
    List(ListArgs),
    /// Shows one group.
    ///
    /// Tells its settings from the CMDB, its version and the deployment that runs now.
    #[command(after_help = "Example:\n  capstan group show web-prod")]
    Show(GroupArgs),
    /// Refreshes a group from the CMDB.
    ///
    /// Every deployment does so by itself before it starts. A refresh that would remove many servers
    /// is held: look at what it says, then let it through with --confirm.
    #[command(
        after_help = "Example:\n  capstan group sync web-prod\n  capstan group sync web-prod \
                            --confirm"
    )]
    Sync {
        #[command(flatten)]
        group: GroupArgs,
        /// Lets a refresh through that was held because it would remove many servers.
        #[arg(long)]
        confirm: bool,
    },
    /// Lists a group's servers.
    ///
    /// Tells which ones get traffic, which are out and why, and what each of them runs. Next: `server
    /// pull-out NAME` takes one out by hand.
    #[command(after_help = "Example:\n  capstan group servers web-prod")]
    Servers {
        #[command(flatten)]
        group: GroupArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows which version runs on how many servers.
    ///
    /// A server counts as proven when it reported the version and verified; on the others an install
    /// began and nothing was proven since.
    #[command(after_help = "Example:\n  capstan group versions web-prod")]
    Versions(GroupArgs),
    /// Brings an earlier package back; starts at once.
    ///
    /// Without --to that is the newest good one before the present. A deployment that runs is revoked
    /// by it. There is no bastion batch, and by default two batches of half the servers. Next:
    /// `deployment watch --group NAME`, or --watch here.
    #[command(after_help = "Example:\n  capstan group rollback web-prod --watch")]
    Rollback {
        #[command(flatten)]
        group: GroupArgs,
        #[command(flatten)]
        rollback: RollbackArgs,
    },
}

/// Which groups.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those of this application.
    #[arg(long, value_name = "APPLICATION")]
    application: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

/// Which group.
#[derive(Debug, clap::Args)]
pub(crate) struct GroupArgs {
    /// Name or id of the group.
    group: String,
}

/// Runs a command; gives the exit code.
pub(crate) async fn run(context: &Context, command: GroupCommand) -> Result<u8, Error> {
    let client = &context.client;
    match command {
        GroupCommand::List(args) => list(context, args).await?,
        GroupCommand::Show(args) => {
            let id = client.group(&args.group).await?.id.to_string();
            context.show(&client.get(&["groups", &id], &[]).await?, |view| text(&view))?;
        }
        GroupCommand::Sync { group, confirm } => {
            let id = client.group(&group.group).await?.id.to_string();
            let body = json!({"confirm": confirm});
            let answer = client.post(&["groups", &id, "sync"], Some(body)).await?;
            context.show(&answer, |view| text(&view))?;
        }
        GroupCommand::Servers { group, page } => {
            let id = client.group(&group.group).await?.id.to_string();
            let answer = client.get(&["groups", &id, "servers"], &page.query()).await?;
            context.show(&answer, |page| servers(page, context.width))?;
        }
        GroupCommand::Versions(args) => {
            let id = client.group(&args.group).await?.id.to_string();
            let answer = client.get(&["groups", &id, "versions"], &[]).await?;
            context.show(&answer, |page| versions(page, context.width))?;
        }
        GroupCommand::Rollback { group, rollback } => {
            let group = client.group(&group.group).await?;
            return roll_back(context, group.id, &rollback).await;
        }
    }
    Ok(0)
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Error> {
    let mut query = args.page.query();
    if let Some(application) = &args.application {
        let application = context.client.application(application).await?;
        query.push(("application", application.id.to_string()));
    }
    let answer = context.client.get(&["groups"], &query).await?;
    context.show(&answer, |page| groups(page, context.width))
}

fn groups(page: Page<GroupView>, width: Option<usize>) -> String {
    let mut table = Table::new([
        ("NAME", Fit::Whole),
        ("APPLICATION", Fit::Cut),
        ("SERVERS", Fit::Number),
        ("OUT", Fit::Number),
        ("VERSION", Fit::Cut),
        ("DEPLOYMENT", Fit::Cut),
        ("SYNCED", Fit::Cut),
    ]);
    for view in items(page) {
        table.row([
            view.name.clone(),
            view.application.name.clone(),
            view.total.to_string(),
            view.out.to_string(),
            view.version.clone().unwrap_or_default(),
            view.running_status.clone().unwrap_or_default(),
            moment::synced(view.synced_at, view.stale),
        ]);
    }
    table.render(width, "No groups. They come from the CMDB; see [cmdb] in the configuration.")
}

fn text(view: &GroupView) -> String {
    let running = match (&view.running_deployment, &view.running_status) {
        (Some(id), Some(status)) => format!("{id}, {status}"),
        (Some(id), None) => id.to_string(),
        (None, _) => "none runs".to_owned(),
    };
    let dark = if view.may_go_dark { ", may go dark" } else { "" };
    let executors = view.executors().collect::<Vec<_>>().join(", then ");
    let in_cmdb = match view.cmdb_revision {
        1.. => format!("{}, revision {}", view.external_id, view.cmdb_revision),
        _ => view.external_id.clone(),
    };
    let mut lines = vec![
        view.name.clone(),
        field("id", &view.id.to_string()),
        field("in CMDB", &in_cmdb),
        field("synced", &moment::synced(view.synced_at, view.stale)),
        field("belongs to", &format!("{} ({})", view.application.name, view.application.owner)),
        field("version", view.version.as_deref().unwrap_or("unknown")),
        field("deployment", &running),
        field(
            "servers",
            &format!(
                "{} in all, {} in service, {} out{dark}",
                view.total, view.in_service, view.out
            ),
        ),
        field("health", &view.health_check_url),
        field("drivers", &format!("{executors}, load balancer {}", view.load_balancer)),
    ];
    if let Some(held) = &view.refresh_held {
        lines.push(field("held", &format!("{held}; `group sync --confirm` lets it through")));
    }
    lines.iter().map(|line| clean(line) + "\n").collect()
}

fn servers(page: Page<ServerView>, width: Option<usize>) -> String {
    let mut table = Table::new([
        ("NAME", Fit::Whole),
        ("ADDRESS", Fit::Cut),
        ("IDC", Fit::Cut),
        ("SERVICE", Fit::Whole),
        ("VERSION", Fit::Cut),
        ("PROVEN", Fit::Cut),
        ("WHY OUT", Fit::Cut),
    ]);
    let now = moment::now();
    for view in items(page) {
        let why = match (&view.pulled_out, view.out_because) {
            (Some(pulled), _) => format!("pulled out by {}: {}", pulled.by, pulled.reason),
            (None, Some(because)) => word(&because),
            (None, None) => String::new(),
        };
        table.row([
            label(&view.hostname, &view.instance),
            format!("{}:{}", view.ip_address, view.port),
            view.idc,
            if view.retired { "retired".to_owned() } else { word(&view.service) },
            view.version.unwrap_or_default(),
            view.proven_at.map(|at| moment::ago(at, now)).unwrap_or_default(),
            why,
        ]);
    }
    table.render(width, "No servers.")
}

fn versions(page: Page<VersionView>, width: Option<usize>) -> String {
    let heads = [("VERSION", Fit::Whole), ("SERVERS", Fit::Number), ("PROVEN", Fit::Number)];
    let mut table = Table::new([heads[0], heads[1], heads[2], ("OLDEST PROOF", Fit::Cut)]);
    let now = moment::now();
    for view in items(page) {
        table.row([
            view.version.unwrap_or_else(|| "unknown".to_owned()),
            view.servers.to_string(),
            view.proven.to_string(),
            view.oldest_proof_at.map(|at| moment::ago(at, now)).unwrap_or_default(),
        ]);
    }
    table.render(width, "No servers.")
}
