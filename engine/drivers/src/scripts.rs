//! The scripts that hosts run, by kind of application.
//!
//! The kind `generic` is compiled in. A folder of the installation may add kinds and change those
//! that are compiled in, one sub-folder per kind:
//!
//! ```text
//! <folder>/<kind>/download, install, verify, report   each optional
//! <folder>/<kind>/prelude.sh                          optional
//! ```
//!
//! Each script is taken from the first of these places that has it: the kind's folder, the kind that
//! is compiled in, `generic`. What a host gets is one file: the prelude followed by the script, where
//! the prelude is the first one found from the script's place on. A script that names another
//! interpreter than `sh` in its first line gets no prelude. The folder is read anew each time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use capstan_core::order::{ScriptSet, hex};
use capstan_core::ports::{DriverError, Script, ScriptSource};
use sha2::{Digest, Sha256};

/// The scripts that each kind has.
pub const NAMES: [&str; 4] = ["download", "install", "verify", "report"];
const GENERIC: &str = "generic";
const PRELUDE: &str = "prelude.sh";
const LARGEST: usize = 256 * 1024;

macro_rules! built_in {
    ($kind:literal: $($file:literal),*) => {
        ($kind, &[$((
            $file,
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/../../agent-scripts/", $kind, "/", $file
            )),
        )),*])
    };
}

/// Kinds with their files: names and texts.
const BUILT_IN: [(&str, &[(&str, &str)]); 1] =
    [built_in!("generic": "prelude.sh", "download", "install", "verify", "report")];

/// Why a kind has no scripts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody knows the kind.
    #[error("there is no kind of application named `{kind}`; the known kinds are: {}", .known.join(", "))]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The kinds that there are.
        known: Vec<String>,
    },
    /// A script in the folder cannot be read.
    #[error("the script {} cannot be read", .path.display())]
    Unreadable {
        /// The script.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A script in the folder is larger than hosts take.
    #[error("the script {} is larger than {LARGEST} bytes", .path.display())]
    TooLarge {
        /// The script.
        path: PathBuf,
    },
}

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        match &error {
            Error::UnknownKind { .. } | Error::TooLarge { .. } => Self::Refused(error.to_string()),
            Error::Unreadable { source, .. } => Self::Busy(format!("{error}: {source}")),
        }
    }
}

/// The scripts of one kind, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Their digests, by name.
    pub set: ScriptSet,
    /// Their texts, without doubles.
    pub scripts: Vec<Script>,
}

/// The scripts of this installation.
#[derive(Debug, Clone, Default)]
pub struct Scripts {
    folder: Option<PathBuf>,
}

impl Scripts {
    /// The scripts that are compiled in, and those in `folder` if one is given.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The names of all kinds. A folder whose name is no good name for a kind is none.
    pub fn kinds(&self) -> Vec<String> {
        let mut kinds: BTreeSet<String> =
            BUILT_IN.iter().map(|(kind, _)| (*kind).to_owned()).collect();
        let entries = self.folder.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
        let folders = entries
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_kind(name));
        kinds.extend(folders);
        kinds.into_iter().collect()
    }

    /// The scripts of `kind`, as they are now.
    pub fn render(&self, kind: &str) -> Result<Rendered, Error> {
        let known = self.kinds();
        if !known.iter().any(|name| name == kind) {
            return Err(Error::UnknownKind { kind: kind.to_owned(), known });
        }
        let places = self.places(kind);
        let mut digests = BTreeMap::new();
        let mut scripts: Vec<Script> = Vec::new();
        for name in NAMES {
            let script = script(&places, name)?;
            digests.insert(name.to_owned(), script.sha256.clone());
            if !scripts.contains(&script) {
                scripts.push(script);
            }
        }
        Ok(Rendered { set: ScriptSet { digests }, scripts })
    }

    fn places(&self, kind: &str) -> Vec<Place> {
        let built_in = |kind: &str| {
            BUILT_IN.iter().find(|(name, _)| *name == kind).map(|(_, files)| Place::BuiltIn(files))
        };
        let folder = self.folder.as_ref().map(|folder| Place::Folder(folder.join(kind)));
        folder.into_iter().chain(built_in(kind)).chain(built_in(GENERIC)).collect()
    }
}

impl ScriptSource for Scripts {
    fn scripts(&self, kind: &str) -> Result<(ScriptSet, Vec<Script>), DriverError> {
        let rendered = self.render(kind)?;
        Ok((rendered.set, rendered.scripts))
    }
}

/// Where scripts are looked for.
enum Place {
    Folder(PathBuf),
    BuiltIn(&'static [(&'static str, &'static str)]),
}

impl Place {
    fn text(&self, name: &str) -> Result<Option<String>, Error> {
        match self {
            Self::Folder(folder) => read(&folder.join(name)),
            Self::BuiltIn(files) => {
                Ok(files.iter().find(|(file, _)| *file == name).map(|(_, text)| (*text).to_owned()))
            }
        }
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.len() > LARGEST => Err(Error::TooLarge { path: path.to_owned() }),
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Unreadable { path: path.to_owned(), source }),
    }
}

fn first(places: &[Place], name: &str) -> Result<Option<(usize, String)>, Error> {
    for (at, place) in places.iter().enumerate() {
        if let Some(text) = place.text(name)? {
            return Ok(Some((at, text)));
        }
    }
    Ok(None)
}

fn script(places: &[Place], name: &str) -> Result<Script, Error> {
    let (at, text) = first(places, name)?.expect("the kind generic has every script");
    let body = if names_other_interpreter(&text) {
        text
    } else {
        match first(&places[at..], PRELUDE)? {
            Some((_, prelude)) => format!("{prelude}\n{text}"),
            None => text,
        }
    };
    Ok(Script { sha256: hex(&Sha256::digest(&body)), body })
}

/// Whether the first line asks for anything but `/bin/sh`; hosts decide by the same rule.
pub(crate) fn names_other_interpreter(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.starts_with("#!") && first != "#!/bin/sh" && !first.starts_with("#!/bin/sh ")
}

fn is_kind(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|byte| is_plain(byte) || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body<'a>(rendered: &'a Rendered, name: &str) -> &'a str {
        let digest = &rendered.set.digests[name];
        &rendered.scripts.iter().find(|script| &script.sha256 == digest).expect("it is there").body
    }

    #[test]
    fn generic_has_every_script_and_each_begins_with_the_prelude() {
        let rendered = Scripts::default().render("generic").expect("it is compiled in");
        assert_eq!(rendered.set.digests.len(), NAMES.len());
        let (_, files) = BUILT_IN[0];
        for name in NAMES {
            assert!(body(&rendered, name).starts_with(files[0].1), "{name}");
        }
        for script in &rendered.scripts {
            assert_eq!(script.sha256, hex(&Sha256::digest(&script.body)));
        }
        assert_eq!(rendered, Scripts::default().render("generic").expect("again"));
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        let error = Scripts::default().scripts("java").expect_err("there is no such kind");
        assert_eq!(
            error,
            DriverError::Refused(
                "there is no kind of application named `java`; the known kinds are: generic"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_folder_adds_kinds_and_generic_fills_the_gaps() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        write("java/prelude.sh", "# ours");
        write("java/install", "jvm");
        write("java/verify", "#!/usr/bin/python3\nprint()\n");
        std::fs::create_dir(folder.path().join("Bad Name")).expect("a folder");

        let scripts = Scripts::new(Some(folder.path().to_owned()));
        assert_eq!(scripts.kinds(), ["generic", "java"]);
        let java = scripts.render("java").expect("it is in the folder");
        let generic = scripts.render("generic").expect("it is compiled in");
        assert_eq!(body(&java, "install"), "# ours\njvm");
        assert_eq!(body(&java, "verify"), "#!/usr/bin/python3\nprint()\n");
        assert_eq!(body(&java, "report"), body(&generic, "report"));
        assert!(matches!(scripts.render("../java"), Err(Error::UnknownKind { .. })));
        assert!(matches!(scripts.render("Bad Name"), Err(Error::UnknownKind { .. })));
    }

    #[test]
    fn a_folder_that_is_not_there_leaves_what_is_compiled_in() {
        let scripts = Scripts::new(Some(PathBuf::from("/nonexistent/scripts")));
        assert!(scripts.render("generic").is_ok());
    }
}
