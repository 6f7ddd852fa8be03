//! `capstan`: the one binary. Configuration, roles and the command line; nothing else.

mod cli;
mod config;
mod demo;
#[cfg(test)]
mod deployed;
mod fence;
mod migrate;
mod node;
mod serve;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A release allocates and frees many small rows on several threads. In the rollout benchmark glibc's
/// allocator was slower (by 10 to 20 %) and the process larger. The database's C code uses it, too
/// (`override`): another 10 %.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A release engine: puts a built package on a fleet of servers, batch by batch, and stops by
/// itself before a bad release can hurt.
#[derive(Debug, Parser)]
#[command(name = "capstan", version, after_long_help = cli::EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    options: cli::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Serve(serve::Serve),
    Migrate(migrate::Migrate),
    #[command(subcommand)]
    Fence(fence::FenceCommand),
    #[command(flatten)]
    Client(cli::Command),
    /// One instance of the demo's application.
    #[command(hide = true)]
    DemoApp(demo::app::DemoApp),
}

/// Exit code of a wrong command line; 1 and 2 say how a deployment ended.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            // Nobody is left to tell when even this cannot be printed.
            drop(error.print());
            return code;
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("capstan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Demo(demo) => {
            log();
            tokio::runtime::Runtime::new()?.block_on(demo::run(demo)).map(|()| ExitCode::SUCCESS)
        }
        Command::Serve(serve) => {
            let runtime = tokio::runtime::Runtime::new()?;
            let ended = runtime.block_on(serve::run(serve));
            // What hangs in a call of the system, such as to a disk that is gone, is not waited for.
            runtime.shutdown_timeout(LAST_CALLS);
            ended.map(|()| ExitCode::SUCCESS)
        }
        Command::Migrate(migrate) => {
            small_runtime()?.block_on(migrate::run(migrate)).map(|()| ExitCode::SUCCESS)
        }
        Command::Fence(command) => tokio::runtime::Runtime::new()?
            .block_on(fence::run(command))
            .map(|()| ExitCode::SUCCESS),
        Command::Client(command) => {
            let code = small_runtime()?.block_on(cli::run(&arguments.options, command));
            Ok(code)
        }
        Command::DemoApp(app) => {
            small_runtime()?.block_on(demo::app::run(app)).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// How long calls of the system that are under way are waited for at the end.
const LAST_CALLS: std::time::Duration = std::time::Duration::from_secs(1);

fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The demo's log goes to standard error; `RUST_LOG` chooses what.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
