//! Puts defaults, file and environment over each other, each value with where it comes from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};
use super::keys::{KEYS, Key, Kind, is_section, join, members, similar, variable};
use super::secret::{hidden, masked};

/// A value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    Switch(bool),
    Texts(Vec<String>),
}

/// A value and where it comes from.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Settings by name.
pub(super) type Settings = BTreeMap<&'static str, Setting>;

/// What stands before the name of a setting in the environment.
const PREFIX: &str = "CAPSTAN__";

impl Value {
    /// As it would stand in the file; what may hold a password is masked.
    pub(super) fn shown(&self, kind: Kind) -> String {
        match self {
            Self::Text(text) if kind == Kind::Secret => format!("{:?}", masked(text)),
            Self::Text(text) if kind == Kind::Token => format!("{:?}", hidden(text)),
            Self::Text(text) => format!("{text:?}"),
            Self::Whole(number) => number.to_string(),
            Self::Switch(switch) => switch.to_string(),
            Self::Texts(texts) => format!("{texts:?}"),
        }
    }
}

/// Reads a file's text into `settings`. What cannot be taken is a fault.
pub(super) fn read_file(
    text: &str,
    origin: &dyn Fn(usize) -> Origin,
    settings: &mut Settings,
    faults: &mut Vec<Fault>,
) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut file = File { text, origin, settings, faults, broken: Vec::new() };
    for error in &errors {
        let line = error.span().map_or(1, |span| file.line(span.start));
        file.broken.push(line);
        // The error's own Display would quote the line, which may hold a password.
        let problem = format!("this is no TOML: {}", error.message());
        let origin = (file.origin)(line);
        file.faults.push(Fault { origin, key: None, value: None, problem, allowed: None });
    }
    file.section("", table.get_ref());
}

struct File<'a> {
    text: &'a str,
    origin: &'a dyn Fn(usize) -> Origin,
    settings: &'a mut Settings,
    faults: &'a mut Vec<Fault>,
    /// Lines that are no TOML: what was made of them is not looked at.
    broken: Vec<usize>,
}

impl File<'_> {
    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let line = self.line(key.span().start);
            let name = join(section, key.get_ref());
            if self.broken.contains(&line) {
                continue;
            }
            match (Key::find(&name), value.get_ref()) {
                (None, DeValue::Table(inner)) if is_section(&name) => self.section(&name, inner),
                (Some(key), _) => self.take(key, line, value),
                (None, _) => self.unknown(section, &name, line),
            }
        }
    }

    fn take(&mut self, key: &'static Key, line: usize, value: &Spanned<DeValue<'_>>) {
        let origin = (self.origin)(line);
        match value_of(key.kind, value.get_ref()) {
            Ok(value) => {
                self.settings.insert(key.name, Setting { value, origin });
            }
            Err(given) => self.faults.push(Fault {
                origin,
                key: Some(key.name.to_owned()),
                value: None,
                problem: format!("it is {given}"),
                allowed: Some(key.allowed.to_owned()),
            }),
        }
    }

    fn unknown(&mut self, section: &str, name: &str, line: usize) {
        let members = members(section);
        let (what, place) = match (is_section(name), section) {
            (true, _) => (format!("[{name}] is a section"), String::new()),
            (false, "") => ("there is no such setting".to_owned(), String::new()),
            (false, section) => {
                ("there is no such setting".to_owned(), format!("in [{section}]: "))
            }
        };
        let meant = members.iter().map(|member| {
            let member = member.trim_matches(['[', ']']);
            if member.contains('.') { member.to_owned() } else { join(section, member) }
        });
        let hint = similar(name, meant).map(|meant| format!("; did you mean {meant}?"));
        self.faults.push(Fault {
            origin: (self.origin)(line),
            key: Some(name.to_owned()),
            value: None,
            problem: what + &hint.unwrap_or_default(),
            allowed: Some(place + &members.join(", ")),
        });
    }
}

/// The value if it is of the kind, else what it is.
fn value_of(kind: Kind, value: &DeValue<'_>) -> Result<Value, &'static str> {
    match (kind, value) {
        (Kind::Text | Kind::Secret | Kind::Token, DeValue::String(text)) => {
            Ok(Value::Text(text.to_string()))
        }
        (Kind::Whole, DeValue::Integer(number)) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map(Value::Whole).map_err(|_| "a number beyond all bounds")
        }
        (Kind::Switch, DeValue::Boolean(switch)) => Ok(Value::Switch(*switch)),
        (Kind::Texts, DeValue::Array(items)) => {
            let text = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
            let texts: Option<Vec<String>> = items.iter().map(text).collect();
            texts.map(Value::Texts).ok_or("a list with an item that is no text")
        }
        (_, DeValue::String(_)) => Err("a text"),
        (_, DeValue::Integer(_)) => Err("a whole number"),
        (_, DeValue::Float(_)) => Err("a number with a fraction"),
        (_, DeValue::Boolean(_)) => Err("a switch (true or false)"),
        (_, DeValue::Datetime(_)) => Err("a date"),
        (_, DeValue::Array(_)) => Err("a list"),
        (_, DeValue::Table(_)) => Err("a section"),
    }
}

/// Reads the variables of the environment that are ours into `settings`.
pub(super) fn read_environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
    settings: &mut Settings,
    faults: &mut Vec<Fault>,
) {
    for (name, text) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let fault = |key: Option<&Key>, value, problem: String, allowed: String| Fault {
            origin: Origin::Variable(name.to_owned()),
            key: key.map(|key| key.name.to_owned()),
            value,
            problem,
            allowed: Some(allowed),
        };
        let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
            let (problem, allowed) = unknown_variable(name);
            faults.push(fault(None, None, problem, allowed));
            continue;
        };
        let Some(text) = text.to_str() else {
            let problem = "it is no UTF-8".to_owned();
            faults.push(fault(Some(key), None, problem, key.allowed.to_owned()));
            continue;
        };
        match parsed(key.kind, text) {
            Some(value) => {
                let origin = Origin::Variable(name.to_owned());
                settings.insert(key.name, Setting { value, origin });
            }
            None => faults.push(fault(
                Some(key),
                Some(format!("{text:?}")),
                "it cannot be read".to_owned(),
                key.allowed.to_owned(),
            )),
        }
    }
}

fn unknown_variable(name: &str) -> (String, String) {
    let all = || KEYS.iter().map(Key::variable);
    let section = name.rsplit_once("__").map_or(PREFIX, |(section, _)| section);
    let mut near: Vec<String> =
        all().filter(|it| it.starts_with(&format!("{section}__"))).collect();
    if near.is_empty() || section.len() < PREFIX.len() {
        let sections = members("");
        near = sections.iter().map(|it| variable(it.trim_matches(['[', ']']))).collect();
        for (variable, member) in near.iter_mut().zip(&sections) {
            if member.starts_with('[') {
                variable.push_str("__…");
            }
        }
    }
    let hint = similar(name, all()).map(|meant| format!("; did you mean {meant}?"));
    (format!("there is no such setting{}", hint.unwrap_or_default()), near.join(", "))
}

/// A value as it stands in the environment: without quotes, a list with commas.
fn parsed(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Text | Kind::Secret | Kind::Token => Some(Value::Text(text.to_owned())),
        Kind::Whole => text.trim().parse().ok().map(Value::Whole),
        Kind::Switch => text.trim().parse().ok().map(Value::Switch),
        Kind::Texts => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Texts(items.map(str::to_owned).collect()))
        }
    }
}

/// The defaults, from the text that is compiled in.
pub(super) fn defaults() -> Settings {
    let (mut settings, mut faults) = (Settings::new(), Vec::new());
    read_file(super::DEFAULT_TEXT, &|_| Origin::Default, &mut settings, &mut faults);
    assert!(faults.is_empty(), "the compiled-in configuration is good: {faults:?}");
    settings
}

/// Where the lines of a file are.
pub(super) fn in_file(path: &Path) -> impl Fn(usize) -> Origin + use<> {
    let path: Arc<Path> = path.into();
    move |line| Origin::File(path.clone(), line)
}
