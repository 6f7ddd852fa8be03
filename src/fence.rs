//! `capstan fence …`: what is done to a database that was restored, while nothing runs on it.

use anyhow::Context;
use capstan_store::{Store, SubmitError};

use crate::config::{ConfigArgs, load};
use crate::serve;

/// Fences: the numbers by which hosts tell a later order from an earlier one.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum FenceCommand {
    /// Raises every fence, after the database was restored from a backup.
    ///
    /// Hosts may be ahead of a restored record. So every fence rises past what was given out after the
    /// backup, orders that were under way are given again under other keys, and what the record calls
    /// proven counts as not proven: servers that a deployment under way had finished are checked by its
    /// next retry. It works on the database that the configuration names, and is refused while a Capstan
    /// runs on it. Doing it twice does no harm.
    #[command(after_help = "Example:\n  capstan fence raise --config /etc/capstan/capstan.toml")]
    Raise(ConfigArgs),
}

/// Runs a command.
pub(crate) async fn run(command: FenceCommand) -> anyhow::Result<()> {
    let FenceCommand::Raise(args) = command;
    let config = load(&args)?.config;
    serve::log(&config)?;
    let settings = capstan_store::Settings {
        url: config.database.url.expose().to_owned(),
        stale_after: config.cmdb.stale_after,
        lease: config.database.lease,
    };
    let store = Store::open(&settings).await?;
    let raised = store.fences_raise(&actor()).await;
    store.leave().await.context("this process is known to the database until its lease is over")?;
    let groups = raised.map_err(|error| match error {
        SubmitError::Store(error) => anyhow::Error::from(error),
        error @ (SubmitError::Refused(_) | SubmitError::GroupUnknown) => error.into(),
    })?;
    println!(
        "The fences of {groups} groups are raised. Start Capstan now, look at the deployments that were \
         under way, and retry them."
    );
    Ok(())
}

/// For the audit: whoever runs this has the database, and so needs no token.
fn actor() -> String {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    format!("{} at the command line", user.as_deref().unwrap_or("somebody"))
}
