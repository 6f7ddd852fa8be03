//! `capstan application …`

use capstan_core::view::{ApplicationView, Page};
use serde_json::json;

use super::context::{Context, word};
use super::error::Error;
use super::list::{PageArgs, items};
use super::moment;
use super::summary::field;
use super::table::{Fit, Table, clean};

/// What is released: each application has a name, an owner, packages, and groups of servers.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ApplicationCommand {
    /// Lists applications by name.
    ///
    /// Next: `group list --application NAME` shows where one runs, `package list --application NAME`
    /// what can be released.
    #[command(after_help = "Example:\n  capstan application list --search shop")]
    List(ListArgs),
    /// Shows one application.
    ///
    /// Tells who answers for it, which scripts its hosts run (kind), and whether its rollouts begin
    /// with a bastion batch. Next: `group list --application NAME`.
    #[command(after_help = "Example:\n  capstan application show web")]
    Show {
        /// Name or id of the application.
        application: String,
    },
    /// Adds an application that the CMDB does not give.
    ///
    /// Applications usually come from the CMDB together with their groups; add one by hand to upload
    /// its packages beforehand. Next: `package upload`.
    #[command(
        after_help = "Example:\n  capstan application create web --owner ann --environment prod"
    )]
    Create(CreateArgs),
}

/// Which applications.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those whose name contains this.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

/// A new application.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its name: 1 to 64 letters, digits and . _ -
    name: String,
    /// Who answers for it.
    #[arg(long, value_name = "WHO", default_value = "")]
    owner: String,
    /// For example prod.
    #[arg(long, value_name = "NAME", default_value = "")]
    environment: String,
    /// Chooses the scripts that run on its hosts.
    #[arg(long, value_name = "KIND", default_value = "generic")]
    kind: String,
    /// Whether its rollouts begin with a bastion batch.
    #[arg(long, value_enum, default_value_t = Bastion::One)]
    bastion: Bastion,
}

/// Whether rollouts begin with a bastion batch.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Bastion {
    /// With one batch of bastions, which a person bakes.
    One,
    /// Without: every batch serves at once.
    None,
}

/// Runs a command.
pub(crate) async fn run(context: &Context, command: ApplicationCommand) -> Result<(), Error> {
    match command {
        ApplicationCommand::List(args) => {
            let mut query = args.page.query();
            query.extend(args.search.map(|search| ("search", search)));
            let answer = context.client.get(&["applications"], &query).await?;
            context.show(&answer, |page| table(page, context.width))
        }
        ApplicationCommand::Show { application } => {
            let id = context.client.application(&application).await?.id.to_string();
            let answer = context.client.get(&["applications", &id], &[]).await?;
            context.show(&answer, |view| text(&view))
        }
        ApplicationCommand::Create(args) => {
            let bastion = match args.bastion {
                Bastion::One => "one",
                Bastion::None => "none",
            };
            let body = json!({
                "name": args.name, "owner": args.owner, "environment": args.environment,
                "kind": args.kind, "bastion": bastion,
            });
            let answer = context.client.post(&["applications"], Some(body)).await?;
            context.show(&answer, |view| text(&view))
        }
    }
}

fn table(page: Page<ApplicationView>, width: Option<usize>) -> String {
    let heads = [("NAME", Fit::Whole), ("OWNER", Fit::Cut), ("ENVIRONMENT", Fit::Cut)];
    let heads = [heads[0], heads[1], heads[2], ("KIND", Fit::Cut), ("BASTION", Fit::Whole)];
    let mut table = Table::new(heads);
    for view in items(page) {
        table.row([view.name, view.owner, view.environment, view.kind, word(&view.bastion)]);
    }
    table.render(width, "No applications.")
}

fn text(view: &ApplicationView) -> String {
    let synced = match view.synced_at {
        Some(at) => moment::synced(at, view.stale),
        None => "never, no CMDB gives it".to_owned(),
    };
    let lines = [
        clean(&view.name),
        field("id", &view.id.to_string()),
        field("owner", &clean(&view.owner)),
        field("runs in", &clean(&view.environment)),
        field("kind", &clean(&view.kind)),
        field("bastion", &word(&view.bastion)),
        field("synced", &synced),
    ];
    lines.join("\n") + "\n"
}
