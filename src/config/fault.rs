//! What is wrong with a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The defaults that are compiled in.
    Default,
    /// A line of the configuration file, from 1.
    File(Arc<Path>, usize),
    /// A variable of the environment.
    Variable(String),
}

impl Origin {
    /// Which of two values wins: the higher one.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(..) => 1,
            Self::Variable(_) => 2,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "{name} in the environment"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it stands.
    pub(crate) origin: Origin,
    /// The setting, as far as one can be named.
    pub(crate) key: Option<String>,
    /// What was given; secrets are masked.
    pub(crate) value: Option<String>,
    /// What is wrong with it.
    pub(crate) problem: String,
    /// What is allowed.
    pub(crate) allowed: Option<String>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str("not set: ")?,
            origin @ (Origin::File(..) | Origin::Variable(_)) => write!(f, "{origin}: ")?,
        }
        match (&self.key, &self.value) {
            (Some(key), Some(value)) => write!(f, "{key} = {value}: ")?,
            (Some(key), None) => write!(f, "{key}: ")?,
            (None, _) => {}
        }
        f.write_str(&self.problem)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "\n    allowed: {allowed}")?;
        }
        Ok(())
    }
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Error {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// These are all of its faults, at least one.
    Faults(Vec<Fault>),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable { path, reason } => {
                write!(f, "the configuration file {} cannot be read: {reason}", path.display())
            }
            Self::Faults(faults) => {
                let plural = if faults.len() == 1 { "fault" } else { "faults" };
                write!(f, "the configuration has {} {plural}:", faults.len())?;
                faults.iter().try_for_each(|fault| write!(f, "\n{fault}"))
            }
        }
    }
}

impl std::error::Error for Error {}
