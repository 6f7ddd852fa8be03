//! `capstan message …`

use serde::Deserialize;
use serde_json::{Value, json};

use super::context::{Context, note, print};
use super::error::Error;

/// Most messages that one call is asked to put back.
const MOST: u32 = 10_000;

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
        /// At most so many [default: all that are there].
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
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
        MessageCommand::Replay { limit } => replay(context, limit).await,
    }
}

/// What one call put back.
#[derive(Deserialize)]
struct Replayed {
    replayed: u32,
    left: u32,
}

/// Calls until all are put back that were there at first: what is laid aside again meanwhile is not moved
/// for ever. Each call stands for itself, so one that fails takes nothing back.
async fn replay(context: &Context, limit: Option<u32>) -> Result<(), Error> {
    let (mut moved, mut wanted) = (0, limit);
    let left = loop {
        let most = wanted.map_or(MOST, |wanted| MOST.min(wanted - moved));
        let body = json!({"limit": most});
        let answer = context.client.post(&["messages", "replay"], Some(body)).await?;
        let Replayed { replayed, left } = answer.read()?;
        moved += replayed;
        let there = moved + left;
        let all = *wanted.insert(wanted.map_or(there, |wanted| wanted.min(there)));
        if moved >= all || replayed == 0 {
            break left;
        }
        note(&format!("{moved} of {all} are in the queue again"));
    };
    if context.is_text() {
        let rest = if left > 0 { format!(", {left} are still laid aside") } else { String::new() };
        return print(&format!("{moved} are in the queue again{rest}\n"));
    }
    print(&format!("{}\n", json!({"replayed": moved, "left": left})))
}
