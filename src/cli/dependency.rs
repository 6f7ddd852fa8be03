//! `capstan dependency …`

use std::time::Duration;

use capstan_core::view::{DependencyView, Page};
use serde_json::json;

use super::context::{Context, terminal_width};
use super::error::Error;
use super::list::{PageArgs, items};
use super::moment;
use super::summary::field;
use super::table::{Fit, Table, clean};

/// Outside dependencies: whether they answer, and their hand switches.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DependencyCommand {
    /// Lists what Capstan calls: load balancers, executors, the CMDB, the package store, a Redis.
    ///
    /// Tells what the circuit breaker of each does, who cut it off, why and until when.
    #[command(after_help = "Example:\n  capstan dependency list")]
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Cuts a dependency off: no call to it is made.
    ///
    /// Without its load balancer a release goes on with at most half of B out by us, undrained; what was
    /// drained before stays out until the load balancer is back. Deployments hold without their executor.
    /// Without the CMDB they go out from the cache. Next: repair it, then `dependency restore`.
    #[command(
        after_help = "Example:\n  capstan dependency cut-off load_balancer.edge --reason ticket-17 \
                            --minutes 120"
    )]
    CutOff {
        /// Its name, see `dependency list`.
        #[arg(value_name = "DEPENDENCY")]
        name: String,
        /// Why: everybody sees it.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Ends by itself after so many minutes [default: when somebody restores it].
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=43_200))]
        minutes: Option<u32>,
    },
    /// Restores a dependency that was cut off: it is called again.
    ///
    /// Servers whose Markup is owed are asked what they run and brought into traffic.
    #[command(after_help = "Example:\n  capstan dependency restore load_balancer.edge")]
    Restore {
        /// Its name, see `dependency list`.
        #[arg(value_name = "DEPENDENCY")]
        name: String,
    },
}

/// Runs a command.
pub(crate) async fn run(context: &Context, command: DependencyCommand) -> Result<(), Error> {
    let (name, body) = match command {
        DependencyCommand::List { page } => {
            let answer = context.client.get(&["dependencies"], &page.query()).await?;
            return context.show(&answer, |page: Page<DependencyView>| {
                table(&items(page)).render(terminal_width(), "Nothing is called yet.")
            });
        }
        DependencyCommand::CutOff { name, reason, minutes } => {
            let wait = minutes.map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
            let expires_at = wait.map(|wait| moment::now() + wait);
            (name, json!({"cut_off": true, "reason": reason, "expires_at": expires_at}))
        }
        DependencyCommand::Restore { name } => (name, json!({"cut_off": false})),
    };
    let answer = context.client.put(&["dependencies", &name], body).await?;
    context.show(&answer, |view: DependencyView| text(&view))
}

fn state(view: &DependencyView) -> String {
    match &view.cut_off {
        Some(_) => "cut off".to_owned(),
        None => view.state.word().replace('_', " "),
    }
}

fn why(view: &DependencyView) -> String {
    match (&view.cut_off, &view.last_error) {
        (Some(cut), _) => {
            let until = cut.expires_at.map(|at| format!(", until {}", moment::instant(at)));
            format!("by {}{}: {}", cut.by, until.unwrap_or_default(), cut.reason)
        }
        (None, Some(error)) if view.state != capstan_core::dependency::BreakerState::Closed => {
            error.clone()
        }
        (None, Some(_) | None) => String::new(),
    }
}

fn table(all: &[DependencyView]) -> Table {
    let mut table = Table::new([
        ("DEPENDENCY", Fit::Whole),
        ("STATE", Fit::Whole),
        ("GROUPS", Fit::Number),
        ("WHY", Fit::Cut),
    ]);
    for view in all {
        table.row([clean(&view.name), state(view), view.groups.to_string(), clean(&why(view))]);
    }
    table
}

fn text(view: &DependencyView) -> String {
    let mut lines = vec![
        clean(&view.name),
        field("kind", view.kind.word()),
        field("state", &state(view)),
        field("groups", &view.groups.to_string()),
    ];
    let why = why(view);
    if !why.is_empty() {
        lines.push(field("why", &clean(&why)));
    }
    lines.join("\n") + "\n"
}
