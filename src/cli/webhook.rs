//! `capstan webhook …`

use capstan_core::view::{DeliveryView, Page, WebhookView};
use serde_json::json;

use super::context::{Context, note, terminal_width};
use super::error::Error;
use super::list::{PageArgs, items};
use super::moment;
use super::summary::field;
use super::table::{Fit, Table, clean};

/// Webhooks: who is told of events by HTTP.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum WebhookCommand {
    /// Lists webhooks.
    ///
    /// Tells which events each is told of, and whether it is on, off or failing.
    #[command(after_help = "Example:\n  capstan webhook list")]
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Makes a webhook, which is told of what happens from then on.
    ///
    /// Prints the secret that bodies are signed with: this once. docs/messages.md says how to check it.
    #[command(
        after_help = "Example:\n  capstan webhook create chat --url https://chat.example/hook \
                            --events \"deployment.*\""
    )]
    Create {
        /// Its name.
        #[arg(value_name = "WEBHOOK")]
        name: String,
        /// What is called.
        #[arg(long, value_name = "URL")]
        url: String,
        /// Which events: types, or what they begin with and a star, with commas [default: deployment.*].
        #[arg(long, value_name = "TYPES")]
        events: Option<String>,
    },
    /// Shows a webhook.
    ///
    /// Tells whether it is called, since when calls fail, and why it was switched off if Capstan has done so.
    #[command(after_help = "Example:\n  capstan webhook show chat")]
    Show {
        #[command(flatten)]
        webhook: WebhookArgs,
    },
    /// Changes what is called, or which events.
    ///
    /// What is not given stays. The next call goes to the new URL; its secret is the old one.
    #[command(after_help = "Example:\n  capstan webhook change chat --events \"*\"")]
    Change {
        #[command(flatten)]
        webhook: WebhookArgs,
        /// Another URL.
        #[arg(long, value_name = "URL", required_unless_present = "events")]
        url: Option<String>,
        /// Other events.
        #[arg(long, value_name = "TYPES")]
        events: Option<String>,
    },
    /// Switches a webhook on.
    ///
    /// It is called at once, and told what it has missed, in order.
    #[command(after_help = "Example:\n  capstan webhook enable chat")]
    Enable {
        #[command(flatten)]
        webhook: WebhookArgs,
    },
    /// Switches a webhook off.
    ///
    /// No more calls are made. Events wait in the log until it is switched on.
    #[command(after_help = "Example:\n  capstan webhook disable chat")]
    Disable {
        #[command(flatten)]
        webhook: WebhookArgs,
    },
    /// Removes a webhook.
    ///
    /// What is known of its calls goes with it. One that is made anew begins with what happens then.
    #[command(after_help = "Example:\n  capstan webhook delete chat")]
    Delete {
        #[command(flatten)]
        webhook: WebhookArgs,
    },
    /// Lists the last calls of a webhook, newest first.
    ///
    /// Tells how each was answered. The last 1,000 are kept, for seven days at most.
    #[command(after_help = "Example:\n  capstan webhook deliveries chat")]
    Deliveries {
        #[command(flatten)]
        webhook: WebhookArgs,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Sends a webhook the events of a deployment again.
    ///
    /// They come in their order and with the same ids, so that who has them already can tell. Everything
    /// else goes on.
    #[command(
        after_help = "Example:\n  capstan webhook replay chat 0193a5c0-0000-7000-8000-0000000000aa"
    )]
    Replay {
        #[command(flatten)]
        webhook: WebhookArgs,
        /// The deployment's id.
        #[arg(value_name = "DEPLOYMENT")]
        deployment: String,
        /// Those after this place in its log.
        #[arg(long, value_name = "PLACE", default_value_t = 0)]
        after: u32,
    },
}

/// Which webhook.
#[derive(Debug, clap::Args)]
pub(crate) struct WebhookArgs {
    /// Its name or id.
    #[arg(value_name = "WEBHOOK")]
    webhook: String,
}

/// Runs a command.
pub(crate) async fn run(context: &Context, command: WebhookCommand) -> Result<(), Error> {
    let client = &context.client;
    let (webhook, change) = match command {
        WebhookCommand::List { page } => {
            let answer = client.get(&["webhooks"], &page.query()).await?;
            return context.show(&answer, |page: Page<WebhookView>| {
                table(&items(page)).render(terminal_width(), "There is no webhook.")
            });
        }
        WebhookCommand::Create { name, url, events } => {
            let body = json!({"name": name, "url": url, "events": events});
            let answer = client.post(&["webhooks"], Some(body)).await?;
            return context.show(&answer, |view: WebhookView| text(&view));
        }
        WebhookCommand::Show { webhook } => {
            let id = find(context, &webhook).await?;
            let answer = client.get(&["webhooks", &id], &[]).await?;
            return context.show(&answer, |view: WebhookView| text(&view));
        }
        WebhookCommand::Delete { webhook } => {
            let id = find(context, &webhook).await?;
            client.delete(&["webhooks", &id]).await?;
            note("It is gone.");
            return Ok(());
        }
        WebhookCommand::Deliveries { webhook, page } => {
            let id = find(context, &webhook).await?;
            let answer = client.get(&["webhooks", &id, "deliveries"], &page.query()).await?;
            return context.show(&answer, |page: Page<DeliveryView>| {
                deliveries(&items(page)).render(terminal_width(), "It was not called yet.")
            });
        }
        WebhookCommand::Replay { webhook, deployment, after } => {
            let id = find(context, &webhook).await?;
            let body = json!({"deployment": deployment, "after": after});
            let answer = client.post(&["webhooks", &id, "replay"], Some(body)).await?;
            return context.show(&answer, |_: serde_json::Value| "It is sent again.\n".to_owned());
        }
        WebhookCommand::Change { webhook, url, events } => {
            let mut body = serde_json::Map::new();
            body.extend(url.map(|url| ("url".to_owned(), json!(url))));
            body.extend(events.map(|events| ("events".to_owned(), json!(events))));
            (webhook, body.into())
        }
        WebhookCommand::Enable { webhook } => (webhook, json!({"enabled": true})),
        WebhookCommand::Disable { webhook } => (webhook, json!({"enabled": false})),
    };
    let id = find(context, &webhook).await?;
    let answer = client.patch(&["webhooks", &id], change).await?;
    context.show(&answer, |view: WebhookView| text(&view))
}

/// The id of a webhook that is named by it or by its name.
async fn find(context: &Context, WebhookArgs { webhook }: &WebhookArgs) -> Result<String, Error> {
    if webhook.parse::<uuid::Uuid>().is_ok() {
        return Ok(webhook.clone());
    }
    context.client.webhook(webhook).await.map(|view| view.id.to_string())
}

fn state(view: &WebhookView) -> &'static str {
    match (view.enabled, view.failing_since) {
        (false, _) => "off",
        (true, Some(_)) => "failing",
        (true, None) => "on",
    }
}

fn table(all: &[WebhookView]) -> Table {
    let mut table = Table::new([
        ("WEBHOOK", Fit::Whole),
        ("STATE", Fit::Whole),
        ("EVENTS", Fit::Whole),
        ("URL", Fit::Cut),
    ]);
    for view in all {
        table.row([
            clean(&view.name),
            state(view).to_owned(),
            clean(&view.events),
            clean(&view.url),
        ]);
    }
    table
}

fn deliveries(all: &[DeliveryView]) -> Table {
    let mut table = Table::new([
        ("AT", Fit::Whole),
        ("EVENT", Fit::Whole),
        ("TYPE", Fit::Whole),
        ("TRY", Fit::Number),
        ("ANSWER", Fit::Number),
        ("MS", Fit::Number),
        ("ERROR", Fit::Cut),
    ]);
    for view in all {
        table.row([
            moment::instant(view.at),
            clean(&view.event),
            view.kind.word().to_owned(),
            view.attempt.to_string(),
            view.status.map(|status| status.to_string()).unwrap_or_default(),
            view.took_ms.to_string(),
            clean(view.error.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn text(view: &WebhookView) -> String {
    let mut lines = vec![
        clean(&view.name),
        field("id", &view.id.to_string()),
        field("url", &clean(&view.url)),
        field("events", &clean(&view.events)),
        field("state", state(view)),
    ];
    if let Some(why) = &view.disabled_because {
        lines.push(field("switched off", &clean(why)));
    }
    if let Some(since) = view.failing_since {
        lines.push(field("failing", &format!("since {}", moment::instant(since))));
        lines.push(field("failures", &view.failures.to_string()));
    }
    if let Some(at) = view.delivered_at {
        lines.push(field("last good", &moment::instant(at)));
    }
    if let Some(secret) = &view.secret {
        lines.push(field("secret", secret));
        lines.push("Keep the secret: it is not shown again.".to_owned());
    }
    lines.join("\n") + "\n"
}
