//! Text that may hold a password.

/// Text that may hold a password. It is shown with the password masked, and never whole by accident.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The whole text, for whoever connects with it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", masked(&self.0))
    }
}

/// Words that stand in the place of a URL and are none.
const WORDS: [&str; 3] = ["", "database", "none"];

/// A URL without its password, user and query; what is no URL may be a password itself.
pub(crate) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return if WORDS.contains(&text) { text.to_owned() } else { "***".to_owned() };
    };
    let (rest, query) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    // A password may hold a slash that should have been escaped, so the last @ counts.
    match rest.rsplit_once('@') {
        Some((_, place)) => format!("{scheme}://***@{place}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

/// What is shown of a text that is nothing but a secret.
pub(crate) fn hidden(text: &str) -> &str {
    if text.is_empty() { text } else { "***" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (text, shown) in [
            ("database", "database"),
            ("sqlite:///srv/capstan.db", "sqlite:///srv/capstan.db"),
            ("postgres://ann:pa/ss@w@db.example/capstan", "postgres://***@db.example/capstan"),
            ("postgres://db/capstan?password=hunter2", "postgres://db/capstan?***"),
            ("hunter", "***"),
            ("", ""),
        ] {
            let secret = Secret::new(text);
            assert_eq!(secret.to_string(), shown);
            assert_eq!(format!("{secret:?}"), format!("{shown:?}"));
            assert_eq!(secret.expose(), text);
        }
    }
}
