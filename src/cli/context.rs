//! What every command works with: the client, and how answers are shown.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{Answer, Client};
use super::error::Error;

/// Which Capstan, as whom, and how answers are shown.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[arg(long, global = true, value_name = "URL", help = SERVER_HELP, help_heading = HEADING)]
    server: Option<String>,
    #[arg(long, global = true, value_name = "TOKEN", help = TOKEN_HELP, help_heading = HEADING)]
    token: Option<Token>,
    #[arg(long, global = true, value_name = "FILE", help = TOKEN_FILE_HELP, help_heading = HEADING)]
    token_file: Option<PathBuf>,
    /// Text for people, or the answer of the API unchanged.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, help_heading = HEADING)]
    output: Format,
}

/// Where the help lists these options.
const HEADING: &str = "Options of the client";
const SERVER_HELP: &str = "URL of Capstan [env: CAPSTAN_SERVER] [default: http://127.0.0.1:7070]";
const TOKEN_HELP: &str = "Access token; others on this machine can see it in the list of processes, a \
                          file is safer [env: CAPSTAN_TOKEN]";
const TOKEN_FILE_HELP: &str =
    "File with the access token on its first line [env: CAPSTAN_TOKEN_FILE]";
/// Where a Capstan is asked when nothing else is said.
const USUAL_SERVER: &str = "http://127.0.0.1:7070";

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// An access token. It is never shown.
#[derive(Clone)]
pub(crate) struct Token(String);

impl std::str::FromStr for Token {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Options {
    /// How answers are shown.
    pub(crate) fn output(&self) -> Format {
        self.output
    }

    /// The token: what the command line says counts before what the environment says.
    fn token(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, Error> {
        let file = |path: &Path| first_line(path).map(Some);
        match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => {
                Err(Error::Usage("--token and --token-file: only one can count".to_owned()))
            }
            (Some(token), None) => Ok(Some(token.0.clone())),
            (None, Some(path)) => file(path),
            (None, None) => match (variable("CAPSTAN_TOKEN"), variable("CAPSTAN_TOKEN_FILE")) {
                (Some(token), _) => Ok(Some(token.trim().to_owned())),
                (None, Some(path)) => file(Path::new(&path)),
                (None, None) => Ok(None),
            },
        }
    }

    fn server(&self, variable: impl Fn(&str) -> Option<String>) -> String {
        let server = self.server.clone().or_else(|| variable("CAPSTAN_SERVER"));
        server.unwrap_or_else(|| USUAL_SERVER.to_owned())
    }
}

/// A variable of the environment that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn first_line(path: &Path) -> Result<String, Error> {
    let failed = Error::local(format!("cannot read the token from {}", path.display()));
    let text = std::fs::read_to_string(path).map_err(failed)?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        Some(_) | None => Err(Error::Usage(format!("{} holds no token", path.display()))),
    }
}

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// Calls the API.
    pub(crate) client: Client,
    /// How answers are shown.
    pub(crate) format: Format,
    /// Places on a line; none: nobody looks at a screen.
    pub(crate) width: Option<usize>,
}

impl Context {
    /// From the options of the command line and the environment.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let token = options.token(variable)?;
        let client = Client::new(&options.server(variable), token.as_deref())?;
        Ok(Self { client, format: options.output, width: terminal_width() })
    }

    /// Shows an answer: unchanged, or as `render` tells it.
    pub(crate) fn show<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        render: impl FnOnce(T) -> String,
    ) -> Result<(), Error> {
        match self.format {
            Format::Json => print(&format!("{}\n", answer.text.trim_end())),
            Format::Text => print(&render(answer.read()?)),
        }
    }

    /// Whether a person reads the output.
    pub(crate) fn is_text(&self) -> bool {
        self.format == Format::Text
    }
}

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    written.map_err(Error::local("cannot write to standard output"))
}

/// Says something to a person who looks on, apart from the output.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Size of a terminal, in letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Lines.
    pub(crate) rows: usize,
    /// Places on a line.
    pub(crate) columns: usize,
}

/// Places on a line of the terminal; none if standard output is none.
pub(crate) fn terminal_width() -> Option<usize> {
    terminal_size().map(|size| size.columns)
}

/// Size of the terminal; none if standard output is none, or one that cannot be drawn on.
pub(crate) fn terminal_size() -> Option<Size> {
    if !std::io::stdout().is_terminal() || variable("TERM").as_deref() == Some("dumb") {
        return None;
    }
    let asked = asked_size().unwrap_or(Size { rows: 24, columns: 80 });
    let number = |name| variable(name).and_then(|text| text.trim().parse().ok());
    Some(Size {
        rows: number("LINES").unwrap_or(asked.rows).max(4),
        columns: number("COLUMNS").unwrap_or(asked.columns).max(20),
    })
}

/// The size that the terminal itself tells.
fn asked_size() -> Option<Size> {
    let mut stty = Command::new("stty");
    let output = stty.arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    let (rows, columns) = (numbers.next()??, numbers.next()??);
    (rows > 0 && columns > 0).then_some(Size { rows, columns })
}

/// The word of the API for a value of one of its enumerations.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(token: Option<&str>, token_file: Option<&Path>) -> Options {
        Options {
            server: None,
            token: token.map(|token| Token(token.to_owned())),
            token_file: token_file.map(Path::to_owned),
            output: Format::Text,
        }
    }

    #[test]
    fn the_command_line_counts_before_the_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, " from-file \n").expect("a file");
        let none = |_: &str| None;
        let all = |name: &str| Some(format!("{name}-value"));
        let token = |options: Options, variables: &dyn Fn(&str) -> Option<String>| {
            options.token(variables).expect("a token or none")
        };
        assert_eq!(token(options(None, None), &none), None);
        assert_eq!(token(options(None, None), &all).as_deref(), Some("CAPSTAN_TOKEN-value"));
        assert_eq!(token(options(None, Some(&file)), &all).as_deref(), Some("from-file"));
        assert_eq!(token(options(Some("x"), None), &all).as_deref(), Some("x"));
        let env_file =
            |name: &str| (name == "CAPSTAN_TOKEN_FILE").then(|| file.display().to_string());
        assert_eq!(token(options(None, None), &env_file).as_deref(), Some("from-file"));
        assert!(options(Some("x"), Some(&file)).token(none).is_err());
    }

    #[test]
    fn a_token_is_never_shown() {
        assert!(!format!("{:?}", options(Some("hunter2"), None)).contains("hunter2"));
    }
}
