//! What is known of deployments, as lists.

use capstan_core::event::Event;
use capstan_core::plan::label;
use capstan_core::sentence::Names;
use capstan_core::view::{AuditView, DeploymentBrief, Page, TargetView};

use super::super::context::{Context, note, word};
use super::super::error::Error;
use super::super::event_line;
use super::super::list::{PageArgs, items};
use super::super::lookup::DeploymentArgs;
use super::super::moment;
use super::super::table::{Fit, Table};
use super::{EventsArgs, ListArgs, TargetsArgs, text};

/// Lists deployments.
pub(super) async fn list(context: &Context, args: ListArgs) -> Result<(), Error> {
    let mut query = args.page.query();
    if let Some(group) = &args.group {
        query.push(("group", context.client.group(group).await?.id.to_string()));
    }
    query.extend(args.status.map(|status| ("status", status.word().to_owned())));
    if args.running {
        query.push(("running", "true".to_owned()));
    }
    let answer = context.client.get(&["deployments"], &query).await?;
    context.show(&answer, |page: Page<DeploymentBrief>| {
        let mut table = Table::new([
            ("ID", Fit::Whole),
            ("GROUP", Fit::Cut),
            ("VERSION", Fit::Cut),
            ("FLAVOR", Fit::Whole),
            ("STATUS", Fit::Whole),
            ("BY", Fit::Cut),
            ("CREATED", Fit::Cut),
            ("ENDED", Fit::Cut),
        ]);
        for view in items(page) {
            table.row([
                view.id.to_string(),
                view.group_name,
                view.package.version,
                word(&view.flavor),
                view.shown_status,
                view.created_by,
                moment::instant(view.created_at),
                moment::maybe(view.ended_at),
            ]);
        }
        table.render(context.width, "No deployments.")
    })
}

/// Shows one deployment.
pub(super) async fn show(context: &Context, args: &DeploymentArgs) -> Result<(), Error> {
    let id = context.client.deployment_id(args).await?.to_string();
    let answer = context.client.get(&["deployments", &id], &[]).await?;
    context.show(&answer, |view| text(&view))
}

/// Lists a deployment's targets.
pub(super) async fn targets(context: &Context, args: TargetsArgs) -> Result<(), Error> {
    let id = context.client.deployment_id(&args.deployment).await?.to_string();
    let mut query = args.page.query();
    query.extend(args.status.map(|status| ("status", status.to_ascii_uppercase())));
    query.extend(args.batch.map(|batch| ("batch", batch.to_string())));
    let answer = context.client.get(&["deployments", &id, "targets"], &query).await?;
    context.show(&answer, |page| target_table(page, context.width))
}

fn target_table(page: Page<TargetView>, width: Option<usize>) -> String {
    let mut table = Table::new([
        ("BATCH", Fit::Number),
        ("HOST", Fit::Whole),
        ("STATUS", Fit::Whole),
        ("ATTEMPT", Fit::Number),
        ("FOR", Fit::Cut),
        ("WHAT HAPPENED", Fit::Cut),
    ]);
    let now = moment::now();
    for view in items(page) {
        let mut words = Vec::new();
        words.extend(view.cause.map(|cause| cause.word().to_owned()));
        words.extend(view.message);
        if view.skipped {
            words.push("already ran the version".to_owned());
        }
        if view.unverified {
            words.push("unverified: a failed health answer was forgiven".to_owned());
        }
        if let Some(since) = view.unknown_since {
            words.push(format!("no answer since {}", moment::instant(since)));
        }
        table.row([
            view.batch.to_string(),
            label(&view.hostname, &view.instance),
            word(&view.status),
            view.attempt.to_string(),
            moment::duration(now.since(view.status_since)),
            words.join("; "),
        ]);
    }
    table.render(width, "No targets.")
}

/// Lists a deployment's events.
pub(super) async fn events(context: &Context, args: EventsArgs) -> Result<(), Error> {
    let id = context.client.deployment_id(&args.deployment).await?;
    let path = ["deployments", &id.to_string(), "events"];
    let query = [("after", args.after.to_string()), ("limit", args.limit.to_string())];
    let answer = context.client.get(&path, &query).await?;
    let names = if context.is_text() {
        Names::of(&context.client.targets(id).await?)
    } else {
        Names::default()
    };
    context.show(&answer, |page: Page<Event>| {
        if let Some(seq) = &page.next_cursor {
            note(&format!("There are more: add --after {seq}"));
        }
        let lines = page.items.iter().map(|event| event_line::line(event, &names) + "\n");
        lines.collect()
    })
}

/// Lists what was asked of a deployment.
pub(super) async fn actions(
    context: &Context,
    deployment: &DeploymentArgs,
    page: &PageArgs,
) -> Result<(), Error> {
    let id = context.client.deployment_id(deployment).await?.to_string();
    let answer = context.client.get(&["deployments", &id, "actions"], &page.query()).await?;
    context.show(&answer, |page: Page<AuditView>| {
        let heads = [("AT", Fit::Whole), ("WHO", Fit::Cut), ("WHAT", Fit::Cut)];
        let heads = [heads[0], heads[1], heads[2], ("ANSWER", Fit::Cut), ("DETAIL", Fit::Cut)];
        let mut table = Table::new(heads);
        for view in items(page) {
            let at = moment::instant(view.at);
            table.row([at, view.actor, view.action, view.answer, view.detail]);
        }
        table.render(context.width, "Nobody asked for anything yet.")
    })
}
