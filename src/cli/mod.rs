//! The command-line client of the REST API: `capstan <noun> <verb>`.
//!
//! Each noun has a file with its commands, what they ask and how the answer is told. [`client`] makes
//! the calls, [`lookup`] finds what people name, [`watch`] follows a deployment. The client decides
//! nothing: what is allowed, and why not, is Capstan's answer.

mod application;
mod client;
mod config;
mod context;
mod dependency;
mod deployment;
mod error;
mod event_line;
mod group;
mod list;
mod lookup;
mod message;
mod moment;
mod package;
mod preview;
mod ready;
mod screen;
mod server;
mod sse;
mod strategy;
mod summary;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod watch;
mod webhook;

use std::process::ExitCode;

pub(crate) use context::Options;

use context::{Context, Format, note, print};
use error::Error;

/// What the exit codes mean; for the help of the whole program.
pub(crate) const EXIT_CODES: &str = "\
Exit codes of the client:
  0  done; a watched deployment ended as SUCCESS
  1  a watched deployment ended as FAILURE; the configuration has faults
  2  a watched deployment ended as REVOKED
  3  a watched deployment waits for a person (with --until-click)
  4  Capstan does not answer, is not ready, or answers with an error
  5  refused: not allowed in the present state; the answer tells what is allowed";

/// The commands of the client.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Applications: what is released.
    #[command(subcommand)]
    Application(application::ApplicationCommand),
    /// Groups: servers of an application that serve together.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Servers: pull one out of service by hand, and put it back.
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// Packages: the built versions of an application.
    #[command(subcommand)]
    Package(package::PackageCommand),
    /// Deployments: plan, create, follow and steer releases.
    #[command(subcommand)]
    Deployment(deployment::DeploymentCommand),
    /// Targets: what ran on one server of a deployment.
    #[command(subcommand)]
    Target(target::TargetCommand),
    /// Dependencies: whether what Capstan calls answers, and the hand switch of each.
    #[command(subcommand)]
    Dependency(dependency::DependencyCommand),
    /// Webhooks: who is told of events by HTTP.
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Messages about changes in the CMDB: how many wait, and those that were laid aside.
    #[command(subcommand)]
    Message(message::MessageCommand),
    /// Asks whether Capstan can do its work.
    ///
    /// Tells what is missing, such as the database, and what it does without, such as a CMDB that
    /// cannot be read. Needs no token; exit code 0: it is ready.
    #[command(after_help = "Example:\n  capstan ready")]
    Ready,
    /// The configuration: check it, or begin one.
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs a command of the client.
pub(crate) async fn run(options: &Options, command: Command) -> ExitCode {
    if let Command::Config(command) = &command {
        return ExitCode::from(config::run(options, command));
    }
    let result = match Context::new(options) {
        Ok(context) => dispatch(&context, command).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output has seen enough.
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            tell(options.output(), &error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<u8, Error> {
    match command {
        Command::Application(command) => application::run(context, command).await?,
        Command::Group(command) => return group::run(context, command).await,
        Command::Server(command) => server::run(context, command).await?,
        Command::Package(command) => package::run(context, command).await?,
        Command::Deployment(command) => return deployment::run(context, command).await,
        Command::Target(command) => target::run(context, command).await?,
        Command::Dependency(command) => dependency::run(context, command).await?,
        Command::Webhook(command) => webhook::run(context, command).await?,
        Command::Message(command) => message::run(context, command).await?,
        Command::Ready => return ready::run(context).await,
        Command::Config(_) => {}
    }
    Ok(0)
}

/// Tells an error to the person, and to a program the answer as it came.
fn tell(format: Format, error: &Error) {
    note(&format!("capstan: {error}"));
    if let (Format::Json, Error::Refused(refusal)) = (format, error)
        && let Some(document) = &refusal.document
        && let Err(error) = print(&format!("{}\n", document.trim_end()))
    {
        note(&format!("capstan: {error}"));
    }
}
