//! `capstan target …`

use std::collections::BTreeMap;
use std::time::Duration;

use capstan_core::TargetId;
use capstan_core::plan::label;
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{LogPart, TargetView};
use serde::Deserialize;

use super::context::{Context, print};
use super::error::Error;
use super::lookup::DeploymentArgs;
use super::moment;
use super::summary::field;
use super::table::clean;

/// How often new output is asked for.
const POLL: Duration = Duration::from_secs(1);
/// Bytes that one call gives at most.
const CHUNK: u64 = 1024 * 1024;

/// A server in a deployment.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TargetCommand {
    /// Shows where one target stands.
    ///
    /// Tells its status and since when, its attempt, and why its last stage failed. Next: `target log`
    /// shows what its scripts wrote.
    #[command(after_help = "Example:\n  capstan target show web-3 --group web-prod")]
    Show(TargetArgs),
    /// Shows the output of the scripts on a host, stage by stage.
    ///
    /// --follow goes on until the target is at rest. Next: after a failure, repair what the output
    /// tells and `deployment retry`.
    #[command(after_help = "Example:\n  capstan target log web-3 --group web-prod --follow")]
    Log(LogArgs),
}

/// Which target.
#[derive(Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// Id of the target, or its host name together with --group or --deployment.
    target: String,
    /// In this deployment.
    #[arg(long, value_name = "DEPLOYMENT", conflicts_with = "group")]
    deployment: Option<String>,
    /// In the deployment of this group that runs, else in its newest one.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

/// Which output.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Goes on as new output comes.
    #[arg(long)]
    follow: bool,
}

/// Output by byte range.
#[derive(Debug, Deserialize)]
struct LogParts {
    items: Vec<LogPart>,
}

/// Runs a command.
pub(crate) async fn run(context: &Context, command: TargetCommand) -> Result<(), Error> {
    match command {
        TargetCommand::Show(args) => {
            let id = args.id(context).await?.to_string();
            context.show(&context.client.get(&["targets", &id], &[]).await?, |view| text(&view))
        }
        TargetCommand::Log(args) => {
            let id = args.target.id(context).await?;
            let mut log = Log { context, id, offset: 0, sizes: BTreeMap::new(), shown: None };
            log.run(args.follow).await
        }
    }
}

impl TargetArgs {
    async fn id(self, context: &Context) -> Result<TargetId, Error> {
        let within = match (self.deployment, self.group) {
            (None, None) => None,
            (deployment, group) => Some(DeploymentArgs { deployment, group }),
        };
        context.client.target_id(&self.target, within.as_ref()).await
    }
}

fn text(view: &TargetView) -> String {
    let now = moment::now();
    let cause = view.cause.map(|cause| format!(" ({})", cause.word())).unwrap_or_default();
    let since = moment::duration(now.since(view.status_since));
    let mut lines = vec![
        label(&view.hostname, &view.instance),
        field("id", &view.id.to_string()),
        field("deployment", &view.deployment.to_string()),
        field("batch", &view.batch.to_string()),
        field("address", &view.ip_address),
        field("status", &format!("{}{cause}, for {since}", view.status)),
        field("attempt", &view.attempt.to_string()),
    ];
    lines.extend(view.message.iter().map(|message| field("message", message)));
    if let Some(since) = view.unknown_since {
        let lasting = moment::duration(now.since(since));
        lines.push(field("no answer", &format!("for {lasting}; it is asked for again")));
    }
    if view.skipped {
        lines.push(field("skipped", "it ran the package already"));
    }
    if view.unverified {
        lines.push(field("unverified", "a bad health answer was forgiven"));
    }
    lines.iter().map(|line| clean(line) + "\n").collect()
}

/// Somebody who reads the output of a target.
struct Log<'a> {
    context: &'a Context,
    id: TargetId,
    /// How many bytes were read.
    offset: u64,
    /// Bytes of each part that was seen, by its key. The text of a part does not tell: what is no
    /// UTF-8 is replaced in it.
    sizes: BTreeMap<String, u64>,
    /// The part that was shown last, by its key.
    shown: Option<String>,
}

impl Log<'_> {
    async fn run(&mut self, follow: bool) -> Result<(), Error> {
        let id = self.id.to_string();
        loop {
            // Asked first: what was written before the target came to rest is still read below.
            let target: TargetView = self.context.client.read(&["targets", &id]).await?;
            while self.read(&id).await? {}
            if !follow || is_over(target.status) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Shows what is new; whether there may be more.
    async fn read(&mut self, id: &str) -> Result<bool, Error> {
        let query = [("offset", self.offset.to_string()), ("limit", CHUNK.to_string())];
        let answer = self.context.client.get(&["targets", id, "log"], &query).await?;
        let parts: LogParts = answer.read()?;
        if !self.context.is_text() {
            // An empty answer is shown once, so that a program always gets one.
            if !parts.items.is_empty() || self.offset == 0 {
                print(&format!("{}\n", answer.text.trim_end()))?;
            }
        } else if parts.items.is_empty() && self.offset == 0 && self.shown.is_none() {
            self.shown = Some(String::new());
            print("No output yet.\n")?;
        }
        self.sizes.extend(parts.items.iter().map(|part| (part.key.clone(), part.bytes)));
        if self.context.is_text() {
            let text: String = parts.items.iter().map(|part| self.told(part)).collect();
            print(&text)?;
        }
        let known: u64 = self.sizes.values().sum();
        let end = self.offset + CHUNK;
        self.offset = end.min(known).max(self.offset);
        Ok(self.offset == end)
    }

    /// A part's text, under a head if the part before was another.
    fn told(&mut self, part: &LogPart) -> String {
        let text = harmless(&part.text);
        if self.shown.as_ref() == Some(&part.key) {
            return text;
        }
        self.shown = Some(part.key.clone());
        let at = moment::instant(part.at);
        format!("== {}, attempt {}, {at}\n{text}", part.stage, part.attempt)
    }
}

/// Whether no more output comes unless a person asks for it. A bastion that verified waits for
/// `bake`, and a held target goes on by itself, so neither is the end.
fn is_over(status: TargetStatus) -> bool {
    let is_end =
        matches!(status, TargetStatus::Success | TargetStatus::SetAside | TargetStatus::Revoked);
    is_end || status.is_failure()
}

/// The text without commands to the terminal; lines and tabs stay.
fn harmless(text: &str) -> String {
    let keep = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\t');
    let text = text.replace("\r\n", "\n");
    text.chars().map(|letter| if keep(letter) { letter } else { '\u{fffd}' }).collect()
}
