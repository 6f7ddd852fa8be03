//! `capstan`: the one binary. Configuration, roles and the command line; nothing else.

mod demo;
mod node;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A release engine: puts a built package on a fleet of servers, batch by batch, and stops by
/// itself before a bad release can hurt.
#[derive(Debug, Parser)]
#[command(name = "capstan", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    /// One instance of the demo's application.
    #[command(hide = true)]
    DemoApp(demo::app::DemoApp),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("capstan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(demo) => {
            log();
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(demo::run(demo)).map(|()| ExitCode::SUCCESS)
        }
        Command::DemoApp(app) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(demo::app::run(app)).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Logs go to standard error; `RUST_LOG` chooses what.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
