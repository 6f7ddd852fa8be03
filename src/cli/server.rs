//! `capstan server …`

use capstan_core::plan::label;
use capstan_core::view::ServerView;
use serde_json::json;

use super::context::{Context, word};
use super::error::Error;
use super::moment;
use super::summary::field;
use super::table::clean;

/// Single servers: pull one out of service by hand, and put it back.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ServerCommand {
    /// Takes a server out of service by hand.
    ///
    /// It is drained, and every plan leaves it out until it is put back; a deployment that runs skips
    /// it. It counts as out, so a release goes slower meanwhile, or stops where too few servers would
    /// be left. Next: repair it, then `server put-back`.
    #[command(
        after_help = "Example:\n  capstan server pull-out web-3 --group web-prod --reason \"disk is \
                            full\""
    )]
    PullOut {
        #[command(flatten)]
        server: ServerArgs,
        /// Why: everybody sees it.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Puts a server that was pulled out back.
    ///
    /// It is verified first and goes into service only if it runs the group's version; if not, it
    /// stays out until a `deployment create` with flavor scaleout or rollout puts it right.
    #[command(after_help = "Example:\n  capstan server put-back web-3 --group web-prod")]
    PutBack {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Shows one server.
    ///
    /// Tells whether it gets traffic and since when, who pulled it out, and which version it runs
    /// with the age of the evidence.
    #[command(after_help = "Example:\n  capstan server show web-3 --group web-prod")]
    Show {
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Which server.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    // Not named `server`: under that name clap would give it the value of the global --server.
    /// Host name (with /instance if the host has several), or id.
    #[arg(value_name = "SERVER")]
    named: String,
    /// The group to look in; needed where there are many.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

/// Runs a command.
pub(crate) async fn run(context: &Context, command: ServerCommand) -> Result<(), Error> {
    let (args, change) = match command {
        ServerCommand::PullOut { server, reason } => {
            (server, Some(json!({"pulled_out": true, "reason": reason})))
        }
        ServerCommand::PutBack { server } => (server, Some(json!({"pulled_out": false}))),
        ServerCommand::Show { server } => (server, None),
    };
    let server = context.client.server(&args.named, args.group.as_deref()).await?;
    let id = server.id.to_string();
    let answer = match change {
        Some(body) => context.client.patch(&["servers", &id], body).await?,
        None => context.client.get(&["servers", &id], &[]).await?,
    };
    context.show(&answer, |view| text(&view))
}

fn text(view: &ServerView) -> String {
    let service = match view.out_because {
        Some(because) => format!("{} ({})", word(&view.service), word(&because)),
        None => word(&view.service),
    };
    let version = view.version.clone().unwrap_or_else(|| "unknown".to_owned());
    let proven = view.proven_at.map(|at| format!(", proven {}", moment::ago(at, moment::now())));
    let mut lines = vec![
        clean(&label(&view.hostname, &view.instance)),
        field("id", &view.id.to_string()),
        field("address", &clean(&format!("{} port {}", view.ip_address, view.port))),
        field("root", &clean(&view.root)),
        field("synced", &moment::synced(view.synced_at, view.stale)),
        field("service", &service),
        field("version", &clean(&format!("{version}{}", proven.unwrap_or_default()))),
    ];
    if let Some(since) = view.markup_owed_since {
        let text = format!("its Markup, since {}", moment::instant(since));
        lines.push(field("owed", &text));
    }
    if let Some(pulled) = &view.pulled_out {
        let since = moment::instant(pulled.since);
        let text = format!("by {}, since {since}: {}", pulled.by, pulled.reason);
        lines.push(field("pulled out", &clean(&text)));
    }
    lines.join("\n") + "\n"
}
