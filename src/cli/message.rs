//! `capstan message …`

use serde_json::{Value, json};

use super::context::Context;
use super::error::Error;

/// Messages about changes in the CMDB, as they wait in the message broker.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum MessageCommand {
    /// Counts messages about changes in the CMDB.
    ///
    /// Tells how many wait in the broker, and how many were laid aside since they could not be understood.
    #[command(after_help = "Example:\n  capstan message show")]
    Show,
    /// Puts messages that were laid aside into the queue again.
    ///
    /// The broker's queue capstan.cmdb.dead has each with the reason, in the header x-capstan-reason.
    /// Next: repair the cause first, or they come back.
    #[command(after_help = "Example:\n  capstan message replay --limit 10")]
    Replay {
        /// At most so many [default: all, up to 10000].
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: Option<u32>,
    },
}

/// Runs a command.
pub(crate) async fn run(context: &Context, command: MessageCommand) -> Result<(), Error> {
    match command {
        MessageCommand::Show => {
            let answer = context.client.get(&["messages"], &[]).await?;
            context.show(&answer, |view: Value| {
                format!("{} wait, {} were laid aside\n", view["queued"], view["dead"])
            })
        }
        MessageCommand::Replay { limit } => {
            let body = limit.map_or_else(|| json!({}), |limit| json!({"limit": limit}));
            let answer = context.client.post(&["messages", "replay"], Some(body)).await?;
            context.show(&answer, |view: Value| {
                format!("{} are in the queue again\n", view["replayed"])
            })
        }
    }
}
