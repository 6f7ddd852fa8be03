//! `capstan migrate`: brings the schema of the database up to date and does nothing else.

use clap::Args;

use crate::config::{ConfigArgs, load};

/// Brings the schema of the database up to date.
#[derive(Debug, Args)]
#[command(
    long_about = "Brings the schema of the database up to date, as the first start of a new version would, \
    and does nothing else. Processes of the version before may go on meanwhile: a migration leaves them \
    what they use. A schema that is newer than this Capstan is refused and not touched.\n\n\
    On a database server it can be done ahead of an upgrade. A database file can be opened by one process: \
    stop the one that runs on it first.\n\n\
    Example: capstan migrate --config /etc/capstan/capstan.toml"
)]
pub(crate) struct Migrate {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Says which migrations were done.
pub(crate) async fn run(migrate: Migrate) -> anyhow::Result<()> {
    let config = load(&migrate.config)?.config;
    let done = capstan_store::migrate(config.database.url.expose()).await?;
    if done.is_empty() {
        println!("the schema is up to date");
    }
    for migration in done {
        println!("done: {migration}");
    }
    Ok(())
}
