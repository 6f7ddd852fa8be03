//! Reads values as what they stand for, and collects every fault on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::fault::{Fault, Origin};
use super::keys::{Key, Kind};
use super::layers::{Setting, Settings, Value};
use super::secret::Secret;

/// What a fault says: what is wrong with the value.
pub(super) type Problem = String;

/// Reads settings one by one.
pub(super) struct Reader<'a> {
    settings: &'a Settings,
    defaults: &'a Settings,
    /// The folder that relative paths outside of a file count from.
    folder: &'a Path,
    pub(super) faults: Vec<Fault>,
    /// Values that are not what was written, and what they were made from.
    pub(super) derived: BTreeMap<&'static str, Derived>,
}

/// A value that was made from something else.
#[derive(Debug, Clone)]
pub(super) struct Derived {
    /// As it would stand in the file.
    pub(super) shown: String,
    /// What it was made from; none: only written out, as a path that is made absolute.
    pub(super) from: Option<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a Settings, defaults: &'a Settings, folder: &'a Path) -> Self {
        Self { settings, defaults, folder, faults: Vec::new(), derived: BTreeMap::new() }
    }

    fn setting(&self, name: &'static str) -> &'a Setting {
        self.settings.get(name).expect("every setting has a default")
    }

    /// The value of a setting. One that cannot be taken is a fault, and its default stands in, so
    /// that reading goes on to the next.
    fn get<T>(&mut self, name: &'static str, read: impl Fn(&Value) -> Result<T, Problem>) -> T {
        match read(&self.setting(name).value) {
            Ok(value) => value,
            Err(problem) => {
                self.refuse(name, problem);
                let default = self.defaults.get(name).expect("every setting has a default");
                read(&default.value).expect("the compiled-in configuration is good")
            }
        }
    }

    /// Notes that the value of a setting cannot be taken.
    pub(super) fn refuse(&mut self, name: &'static str, problem: Problem) {
        let key = Key::find(name).expect("only settings are read");
        let setting = self.setting(name);
        self.faults.push(Fault {
            origin: setting.origin.clone(),
            key: Some(name.to_owned()),
            value: Some(setting.value.shown(key.kind)),
            problem,
            allowed: Some(key.allowed.to_owned()),
        });
    }

    /// Notes that a value was made from something else.
    pub(super) fn derive(&mut self, name: &'static str, shown: String, from: &str) {
        self.derived.insert(name, Derived { shown, from: Some(from.to_owned()) });
    }

    /// A text as it is.
    pub(super) fn text(&mut self, name: &'static str) -> String {
        self.read_text(name, |text| Ok(text.to_owned()))
    }

    /// A text that stands for something.
    pub(super) fn read_text<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> T {
        self.get(name, |value| match value {
            Value::Text(text) => read(text),
            Value::Whole(_) | Value::Switch(_) | Value::Texts(_) => Err("it is no text".to_owned()),
        })
    }

    /// A list of texts that each stand for something.
    pub(super) fn read_texts<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> Vec<T> {
        self.get(name, |value| match value {
            Value::Texts(texts) => texts.iter().map(|text| read(text)).collect(),
            Value::Text(_) | Value::Whole(_) | Value::Switch(_) => Err("it is no list".to_owned()),
        })
    }

    /// A whole number within bounds, both of them allowed.
    pub(super) fn whole(&mut self, name: &'static str, low: u64, high: u64) -> u64 {
        self.get(name, |value| {
            let Value::Whole(number) = value else { return Err("it is no number".to_owned()) };
            let number = u64::try_from(*number).map_err(|_| "it is below zero".to_owned())?;
            match number {
                _ if number < low => Err("it is too small".to_owned()),
                _ if number > high => Err("it is too large".to_owned()),
                _ => Ok(number),
            }
        })
    }

    /// A whole number that counts things in this process.
    pub(super) fn count(&mut self, name: &'static str, low: u64, high: u64) -> usize {
        usize::try_from(self.whole(name, low, high)).unwrap_or(usize::MAX)
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, name: &'static str) -> bool {
        self.get(name, |value| match value {
            Value::Switch(switch) => Ok(*switch),
            Value::Text(_) | Value::Whole(_) | Value::Texts(_) => Err("it is no switch".to_owned()),
        })
    }

    /// A path, made absolute; none if it is not set.
    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let text = self.read_text(name, |text| match text {
            text if text.contains('\0') => Err("it holds a zero byte".to_owned()),
            text => Ok(text.to_owned()),
        });
        if text.is_empty() {
            return None;
        }
        let path = match &self.setting(name).origin {
            Origin::File(file, _) => self.folder.join(file.parent().unwrap_or(file)).join(&text),
            Origin::Default | Origin::Variable(_) => self.folder.join(&text),
        };
        // Written without `.` parts; links are left alone.
        let path: PathBuf = path.components().collect();
        let shown = format!("{:?}", path.display().to_string());
        self.derived.insert(name, Derived { shown, from: None });
        Some(path)
    }

    /// A path that has a default under the data folder.
    pub(super) fn path_or(&mut self, name: &'static str, data_dir: &Path, file: &str) -> PathBuf {
        self.path(name).unwrap_or_else(|| {
            let path = data_dir.join(file);
            self.derive(name, format!("{:?}", path.display().to_string()), "from data_dir");
            path
        })
    }

    /// A secret: from the setting itself, or from the file that its `_file` names. Of two, the
    /// one from the higher layer counts.
    pub(super) fn secret(&mut self, name: &'static str, file_name: &'static str) -> Secret {
        let inline = Secret::new(self.text(name));
        let Some(path) = self.path(file_name) else { return inline };
        let rank = |name| self.setting(name).origin.rank();
        if rank(name) > rank(file_name) {
            return inline;
        }
        if rank(name) == rank(file_name) {
            self.refuse(file_name, format!("{name} is given too, and only one of them can count"));
            return inline;
        }
        match first_line(&path) {
            Ok(line) => {
                let secret = Secret::new(line);
                let from = format!("from {}", path.display());
                let key = Key::find(name).expect("only settings are read");
                let shown = Value::Text(secret.expose().to_owned()).shown(key.kind);
                self.derive(name, shown, &from);
                secret
            }
            Err(reason) => {
                self.refuse(file_name, reason);
                inline
            }
        }
    }

    /// Notes that a secret cannot be taken, where it really stands.
    pub(super) fn refuse_secret(
        &mut self,
        (name, file_name): (&'static str, &'static str),
        problem: Problem,
    ) {
        let Some(derived) = self.derived.get(name).filter(|derived| derived.from.is_some()) else {
            return self.refuse(name, problem);
        };
        let shown = derived.shown.clone();
        self.faults.push(Fault {
            origin: self.setting(file_name).origin.clone(),
            key: Some(file_name.to_owned()),
            value: Some(self.setting(file_name).value.shown(Kind::Text)),
            problem: format!("it holds {shown}: {problem}"),
            allowed: Key::find(name).map(|key| key.allowed.to_owned()),
        });
    }
}

fn first_line(path: &Path) -> Result<String, Problem> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the file {} cannot be read: {error}", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        Some(_) | None => Err(format!("the first line of the file {} is empty", path.display())),
    }
}
