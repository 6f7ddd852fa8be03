//! `capstan config …`: works without a running Capstan.

use serde_json::{Value, json};

use super::context::{Format, Options, note, print, terminal_width};
use super::error::{Error, FAILED};
use super::table::{Fit, Table};
use crate::config::{self, ConfigArgs, DEFAULT_TEXT, Loaded, Origin};

/// Exit code when the configuration has faults.
const FAULTS: u8 = 1;

/// The configuration of a Capstan on this machine.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Checks the configuration and tells every fault.
    ///
    /// Each fault with file and line (or variable), key, value and what is allowed; exit code 1. A
    /// good configuration is shown as it is in force, secrets masked, each value with where it comes
    /// from. Next: `capstan serve`.
    #[command(after_help = "Example:\n  capstan config check --config /etc/capstan/capstan.toml")]
    Check(ConfigArgs),
    /// Prints the documented default configuration.
    ///
    /// Take it as the beginning of your own: keep what you change, leave out the rest.
    #[command(after_help = "Example:\n  capstan config show-default > capstan.toml")]
    ShowDefault,
}

/// Runs a command; gives the exit code.
pub(crate) fn run(options: &Options, command: &ConfigCommand) -> u8 {
    let result = match command {
        ConfigCommand::ShowDefault => print(DEFAULT_TEXT).map(|()| 0),
        ConfigCommand::Check(args) => check(options.output(), args),
    };
    result.unwrap_or_else(|error: Error| {
        if !error.is_closed_pipe() {
            note(&format!("capstan: {error}"));
        }
        FAILED
    })
}

fn check(format: Format, args: &ConfigArgs) -> Result<u8, Error> {
    match (config::load(args), format) {
        (Ok(loaded), Format::Text) => print(&text(&loaded, terminal_width())).map(|()| 0),
        (Ok(loaded), Format::Json) => print(&format!("{:#}\n", document(&loaded))).map(|()| 0),
        (Err(error), Format::Text) => {
            note(&format!("capstan: {error}"));
            Ok(FAULTS)
        }
        (Err(error), Format::Json) => print(&format!("{:#}\n", faults(&error))).map(|()| FAULTS),
    }
}

fn text(loaded: &Loaded, width: Option<usize>) -> String {
    let file = match &loaded.file {
        Some(path) => path.display().to_string(),
        None => "no file: there is no ./capstan.toml and none was named".to_owned(),
    };
    let mut table =
        Table::new([("SETTING", Fit::Whole), ("VALUE", Fit::Cut), ("WHERE FROM", Fit::Cut)]);
    for effective in &loaded.effective {
        table.row([effective.key.to_owned(), effective.value.clone(), effective.origin.clone()]);
    }
    format!("The configuration is good ({file}).\n\n{}", table.render(width, ""))
}

fn document(loaded: &Loaded) -> Value {
    let settings = loaded.effective.iter().map(|effective| {
        json!({"key": effective.key, "value": effective.value, "origin": effective.origin})
    });
    json!({"ok": true, "file": loaded.file, "settings": settings.collect::<Vec<_>>()})
}

fn faults(error: &config::Error) -> Value {
    let faults = match error {
        config::Error::Unreadable { path, reason } => {
            let problem = format!("the file cannot be read: {reason}");
            vec![json!({"file": path, "problem": problem})]
        }
        config::Error::Faults(faults) => faults
            .iter()
            .map(|fault| {
                let mut value = json!({
                    "key": fault.key, "value": fault.value, "problem": fault.problem,
                    "allowed": fault.allowed,
                });
                match &fault.origin {
                    Origin::Default => {}
                    Origin::File(path, line) => {
                        value["file"] = json!(path.as_ref());
                        value["line"] = json!(line);
                    }
                    Origin::Variable(name) => value["variable"] = json!(name),
                }
                value
            })
            .collect(),
    };
    json!({"ok": false, "faults": faults})
}
