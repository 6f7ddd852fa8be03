//! Every setting: its name, of which kind its value is, and what is allowed.

/// Of which kind a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text in quotes.
    Text,
    /// Text that may hold a password.
    Secret,
    /// Text that is nothing but a secret.
    Token,
    /// A whole number.
    Whole,
    /// `true` or `false`.
    Switch,
    /// A list of texts.
    Texts,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Section and key, as in `server.listen`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What is allowed, for people.
    pub(super) allowed: &'static str,
}

const fn key(name: &'static str, kind: Kind, allowed: &'static str) -> Key {
    Key { name, kind, allowed }
}

const A_SECRET_FILE: &str = "the path of a file whose first line is the URL, or \"\"";

const A_FIELD: &str = "the name of a custom field: letters, digits and _; or \"\"";
const A_SLUG: &str = "the slug of a tag: letters, digits, - and _; or \"\"";

/// Every setting, in the order of the default file.
pub(super) const KEYS: [Key; 62] = [
    key("data_dir", Kind::Text, "the path of a folder"),
    key("roles", Kind::Texts, "a list of \"controller\", \"portal\" and \"engine\""),
    key("server.listen", Kind::Text, "an IP address and a port, like \"127.0.0.1:7070\""),
    key(
        "server.public_url",
        Kind::Text,
        "a URL with http or https, like \"https://capstan.example\"; \"\" makes it from \
         server.listen",
    ),
    key(
        "server.allowed_hosts",
        Kind::Texts,
        "a list of host names, with or without port, like [\"capstan.example\"]; [\"*\"] for every \
         name",
    ),
    key(
        "database.url",
        Kind::Secret,
        "sqlite:// and an absolute path, postgres:// or mysql:// with user, host and database; \"\" for \
         data_dir/capstan.db",
    ),
    key("database.url_file", Kind::Text, A_SECRET_FILE),
    key("database.lease_seconds", Kind::Whole, "whole seconds from 1 to 60"),
    key(
        "queue.url",
        Kind::Secret,
        "\"database\"; or redis:// or rediss:// with perhaps user and password, host, and perhaps port and \
         number of a database, like \"redis://:password@redis.example:6379/0\"",
    ),
    key("queue.url_file", Kind::Text, A_SECRET_FILE),
    key(
        "broker.url",
        Kind::Secret,
        "\"none\", or amqp:// or amqps:// with user, host and virtual host, like \
         \"amqp://capstan:secret@mq.example:5672/capstan\"",
    ),
    key("broker.url_file", Kind::Text, A_SECRET_FILE),
    key("broker.declare", Kind::Switch, "true or false"),
    key("broker.begin", Kind::Text, "\"now\" or \"first\""),
    key(
        "webhooks.allow",
        Kind::Texts,
        "a list of addresses and networks, like [\"10.0.0.0/8\", \"192.168.1.7\"]",
    ),
    key("webhooks.timeout_ms", Kind::Whole, "whole milliseconds from 100 to 30000"),
    key("webhooks.disable_after_minutes", Kind::Whole, "whole minutes from 1 to 43200"),
    key("engine.slots", Kind::Whole, "a whole number from 1 to 4096"),
    key("engine.stages_under_way", Kind::Whole, "a whole number from 1 to 1000000"),
    key("engine.stop_wait_seconds", Kind::Whole, "whole seconds from 0 to 600"),
    key("engine.stale_after_hours", Kind::Whole, "whole hours from 1 to 720"),
    key("cmdb.driver", Kind::Text, "\"file\", \"http\" or \"netbox\""),
    key("cmdb.path", Kind::Text, "the path of a YAML file; \"\" for data_dir/cmdb.yaml"),
    key(
        "cmdb.url",
        Kind::Text,
        "a URL with http or https, without user, password, ? and #, like \
         \"https://cmdb.example/api\"",
    ),
    key("cmdb.token", Kind::Token, "letters, digits and - . _ ~ + / =; \"\" sends none"),
    key("cmdb.token_file", Kind::Text, "the path of a file whose first line is the token, or \"\""),
    key("cmdb.timeout_ms", Kind::Whole, "whole milliseconds from 100 to 5000"),
    key("cmdb.poll_seconds", Kind::Whole, "whole seconds from 1 to 3600"),
    key("cmdb.stale_after_seconds", Kind::Whole, "whole seconds from 10 to 604800"),
    key("cmdb.hold_above_percent", Kind::Whole, "whole percent from 1 to 100"),
    key("cmdb.netbox.tag", Kind::Text, A_SLUG),
    key("cmdb.netbox.group_field", Kind::Text, "the name of a custom field: letters, digits and _"),
    key("cmdb.netbox.application_field", Kind::Text, A_FIELD),
    key("cmdb.netbox.port_field", Kind::Text, A_FIELD),
    key("cmdb.netbox.root_field", Kind::Text, A_FIELD),
    key("cmdb.netbox.pool_field", Kind::Text, A_FIELD),
    key("cmdb.netbox.scale_out_field", Kind::Text, A_FIELD),
    key("cmdb.netbox.on_lb_failure_field", Kind::Text, A_FIELD),
    key("cmdb.netbox.may_go_dark_field", Kind::Text, A_FIELD),
    key("cmdb.netbox.bastion_tag", Kind::Text, A_SLUG),
    key(
        "cmdb.netbox.statuses",
        Kind::Texts,
        "a list of statuses as NetBox's API names them, at least one, like [\"active\"]",
    ),
    key("cmdb.netbox.port", Kind::Whole, "a whole number from 1 to 65535"),
    key(
        "cmdb.netbox.health_check_url",
        Kind::Text,
        "a URL with http or https, like \"http://{ip}:{port}/healthz\"",
    ),
    key(
        "cmdb.netbox.doc_base",
        Kind::Text,
        "an absolute path without `..`, like \"/srv/{application}\"",
    ),
    key("cmdb.netbox.environment", Kind::Text, "a word, like \"prod\", or \"\""),
    key("cmdb.netbox.kind", Kind::Text, "a kind of application, like \"generic\""),
    key("cmdb.netbox.load_balancer", Kind::Text, "the name of a load balancer, like \"none\""),
    key("cmdb.netbox.executor", Kind::Text, "the name of an executor, like \"local\""),
    key("packages.path", Kind::Text, "the path of a folder; \"\" for data_dir/packages"),
    key("packages.max_bytes", Kind::Whole, "bytes, a whole number from 1024 to 1099511627776"),
    key(
        "executor.local.roots",
        Kind::Texts,
        "a list of absolute paths without `..`, like [\"/srv\"]",
    ),
    key("executor.local.processes", Kind::Whole, "a whole number from 1 to 1024"),
    key("load_balancer.none.timeout_ms", Kind::Whole, "whole milliseconds from 50 to 1500"),
    key("breaker.window_seconds", Kind::Whole, "whole seconds from 1 to 600"),
    key("breaker.threshold", Kind::Whole, "a whole number from 1 to 1000"),
    key("breaker.open_seconds", Kind::Whole, "whole seconds from 1 to 600"),
    key("breaker.probes", Kind::Whole, "a whole number from 1 to 100"),
    key("auth.secure_cookies", Kind::Switch, "true or false"),
    key("auth.session_hours", Kind::Whole, "whole hours from 1 to 720"),
    key("auth.admin_token_file", Kind::Text, "the path of a file, or \"\""),
    key("log.format", Kind::Text, "\"text\" or \"json\""),
    key(
        "log.level",
        Kind::Text,
        "error, warn, info, debug or trace, or a list like \"info,capstan_runner=debug\"",
    ),
];

impl Key {
    /// The setting with this name.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Its name in the environment.
    pub(super) fn variable(&self) -> String {
        variable(self.name)
    }
}

/// The variable of the environment for a setting.
pub(super) fn variable(name: &str) -> String {
    format!("CAPSTAN__{}", name.replace('.', "__").to_uppercase())
}

/// What may stand directly in a section (`""` is the top): keys, and sections in brackets.
pub(super) fn members(section: &str) -> Vec<String> {
    let mut members: Vec<String> = Vec::new();
    for key in &KEYS {
        let rest = if section.is_empty() {
            Some(key.name)
        } else {
            key.name.strip_prefix(section).and_then(|rest| rest.strip_prefix('.'))
        };
        let Some(rest) = rest else { continue };
        let member = match rest.split_once('.') {
            None => rest.to_owned(),
            Some((first, _)) => format!("[{}]", join(section, first)),
        };
        if !members.contains(&member) {
            members.push(member);
        }
    }
    members
}

/// Whether there is such a section.
pub(super) fn is_section(name: &str) -> bool {
    !members(name).is_empty()
}

/// The name of a member of a section.
pub(super) fn join(section: &str, member: &str) -> String {
    if section.is_empty() { member.to_owned() } else { format!("{section}.{member}") }
}

/// The candidate that `given` was probably meant to be.
pub(super) fn similar(given: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    candidates
        .map(|candidate| (distance(given, &candidate), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.chars().count().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, dropped or replaced to make one text from the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_keys_and_sections() {
        assert_eq!(
            members("engine"),
            ["slots", "stages_under_way", "stop_wait_seconds", "stale_after_hours"]
        );
        assert_eq!(members("executor"), ["[executor.local]"]);
        assert_eq!(members("")[..2], ["data_dir", "roles"]);
        assert!(is_section("load_balancer.none") && !is_section("server.listen"));
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_word() {
        let words = || ["listen", "public_url", "slots"].into_iter().map(str::to_owned);
        assert_eq!(similar("listn", words()).as_deref(), Some("listen"));
        assert_eq!(similar("publicurl", words()).as_deref(), Some("public_url"));
        assert_eq!(similar("password", words()), None);
    }
}
