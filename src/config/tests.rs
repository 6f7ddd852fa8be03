//! What a configuration may hold, and what is said of what it may not.

mod outside;

use std::collections::BTreeSet;

use super::keys::{Key, Kind};
use super::*;

/// Loads a text as `capstan.toml` with these variables.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(USUAL_FILE), text).expect("a file");
    load_in(folder.path(), variables)
}

fn load_in(folder: &Path, variables: &[(&str, &str)]) -> Result<Loaded, Error> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    load_from(folder, None, variables)
}

/// The lines of all faults.
fn faults(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match load(text, variables).expect_err("it has faults") {
        Error::Faults(faults) => faults.iter().map(ToString::to_string).collect(),
        error @ Error::Unreadable { .. } => panic!("{error}"),
    }
}

#[test]
fn the_default_file_holds_every_setting_and_explains_it() {
    let defaults = layers::defaults();
    for key in &KEYS {
        let setting = defaults.get(key.name).unwrap_or_else(|| panic!("{} is missing", key.name));
        assert_eq!(setting.origin, Origin::Default);
    }
    assert_eq!(KEYS.iter().map(|key| key.name).collect::<BTreeSet<_>>().len(), KEYS.len());
    let lines: Vec<&str> = DEFAULT_TEXT.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#'))
    {
        assert!(pair[0].starts_with("# "), "{:?} is not explained", pair[1]);
    }
}

#[test]
fn nothing_given_is_the_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    let loaded = load_in(folder.path(), &[]).expect("the defaults are good");
    assert_eq!(loaded.file, None);
    let config = loaded.config;
    let data_dir = folder.path().join("capstan-data");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(config.server.public_url, "http://127.0.0.1:7070");
    assert_eq!(config.server.allowed_hosts, ["localhost", "127.0.0.1", "[::1]"]);
    let url = format!("sqlite://{}", data_dir.join("capstan.db").display());
    assert_eq!(config.database.url.expose(), url);
    assert_eq!(config.queue, Queue::Database);
    assert_eq!((config.broker.url.clone(), config.broker.declare), (None, true));
    assert_eq!(config.broker.begin, BrokerBegin::Now);
    assert_eq!(config.webhooks.allow, Vec::new());
    assert_eq!(config.webhooks.disable_after, Duration::from_hours(24));
    assert_eq!((config.engine.slots, config.engine.stages_under_way), (384, 20_000));
    assert_eq!(config.cmdb.path, data_dir.join("cmdb.yaml"));
    assert_eq!(config.cmdb.hold_above, capstan_core::decide::HOLD_ABOVE);
    assert_eq!(config.cmdb.netbox.scale_out_field, "");
    assert_eq!(config.packages.path, data_dir.join("packages"));
    assert_eq!(config.packages.max_bytes, 2 * 1024 * 1024 * 1024);
    assert_eq!(config.executor.local.roots, Vec::<PathBuf>::new());
    assert_eq!(config.load_balancer.none.timeout, Duration::from_secs(1));
    assert_eq!(config.auth.session, Duration::from_hours(12));
    assert_eq!(config.auth.admin_token_file, None);
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Text, "info"));
    // The default file, given as one's own, changes nothing.
    std::fs::write(folder.path().join(USUAL_FILE), DEFAULT_TEXT).expect("a file");
    let again = load_in(folder.path(), &[]).expect("the default file is good").config;
    assert_eq!(again.server.public_url, "http://127.0.0.1:7070");
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "[server]\nlisten = \"127.0.0.1:1\"\n[executor.local]\nroots = [\"/a\"]\n";
    let variables = [
        ("CAPSTAN__SERVER__LISTEN", "127.0.0.1:2"),
        ("CAPSTAN__EXECUTOR__LOCAL__ROOTS", "/srv, /opt/apps"),
        ("CAPSTAN__AUTH__SECURE_COOKIES", "true"),
        ("CAPSTAN_SERVER", "not ours"),
    ];
    let loaded = load(text, &variables).expect("it is good");
    assert_eq!(loaded.config.server.listen.port(), 2);
    assert_eq!(loaded.config.server.public_url, "http://127.0.0.1:2");
    let roots = [PathBuf::from("/srv"), PathBuf::from("/opt/apps")];
    assert_eq!(loaded.config.executor.local.roots, roots);
    assert!(loaded.config.auth.secure_cookies);
    let origin = |key| {
        let all = &loaded.effective;
        all.iter().find(|it| it.key == key).expect("it is in force").origin.clone()
    };
    assert_eq!(origin("server.listen"), "CAPSTAN__SERVER__LISTEN in the environment");
    assert_eq!(origin("server.public_url"), "from server.listen");
    assert_eq!(origin("engine.slots"), "default");
}

#[test]
fn all_faults_are_told_with_file_line_key_value_and_what_is_allowed() {
    let text = r#"data_dir = 7
[server]
listen = "localhost"
listn = "127.0.0.1:1"
allowed_hosts = ["a b"]
[engine]
slots = 0
stages_under_way = 1.5
[sever]
x = 1
[log]
level = "inof"
format = "xml"
[executor.local]
roots = ["srv", "/srv/../etc"]
[packages]
max_bytes = 99999999999999999999999
"#;
    let faults = faults(text, &[("CAPSTAN__ENGINE__SLOT", "1"), ("CAPSTAN__CMDB__DRIVER", "etcd")]);
    let expected = [
        "capstan.toml:1: data_dir: it is a whole number\n    allowed: the path of a folder",
        "capstan.toml:3: server.listen = \"localhost\": it is no IP address with a port\n    \
         allowed: an IP address and a port, like \"127.0.0.1:7070\"",
        "capstan.toml:4: server.listn: there is no such setting; did you mean server.listen?\n    \
         allowed: in [server]: listen, public_url, allowed_hosts",
        "capstan.toml:5: server.allowed_hosts = [\"a b\"]: \"a b\" is no host name",
        "capstan.toml:7: engine.slots = 0: it is too small\n    allowed: a whole number from 1 to \
         4096",
        "capstan.toml:8: engine.stages_under_way: it is a number with a fraction",
        "capstan.toml:9: sever: there is no such setting; did you mean server?\n    allowed: \
         data_dir, roles, [server], [database]",
        "capstan.toml:12: log.level = \"inof\": \"inof\" is no level",
        "capstan.toml:13: log.format = \"xml\": there is no such format\n    allowed: \"text\" or \
         \"json\"",
        "capstan.toml:15: executor.local.roots = [\"srv\", \"/srv/../etc\"]: \"srv\" is no absolute \
         path",
        "capstan.toml:17: packages.max_bytes: it is a number beyond all bounds",
        "CAPSTAN__CMDB__DRIVER in the environment: cmdb.driver = \"etcd\": there is no such driver\n",
        "CAPSTAN__ENGINE__SLOT in the environment: there is no such setting; did you mean \
         CAPSTAN__ENGINE__SLOTS?\n    allowed: CAPSTAN__ENGINE__SLOTS, \
         CAPSTAN__ENGINE__STAGES_UNDER_WAY",
    ];
    assert_eq!(faults.len(), expected.len(), "{}", faults.join("\n"));
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.starts_with(expected), "{fault}\nis not\n{expected}");
    }
}

#[test]
fn what_is_no_toml_is_told_without_quoting_it() {
    let faults =
        faults("[database]\nurl = \"postgres://ann:hunter2@db\n[log]\nlevel = \"x\"\n", &[]);
    assert!(faults[0].starts_with("capstan.toml:2: this is no TOML"), "{faults:?}");
    assert!(
        faults.iter().any(|fault| fault.starts_with("capstan.toml:4: log.level")),
        "{faults:?}"
    );
    assert!(!faults.join("\n").contains("hunter2"), "{faults:?}");
}

#[test]
fn what_is_not_built_in_yet_says_so_and_shows_no_password() {
    for (key, value, problem) in [
        ("CAPSTAN__DATABASE__URL", "postgres://ann:hunter2@db", "names no database"),
        ("CAPSTAN__DATABASE__URL", "mysql://ann:hunter2@:3306/x", "cannot be read as a URL"),
        ("CAPSTAN__DATABASE__URL", "sqlite://x.db", "must be absolute"),
        ("CAPSTAN__DATABASE__URL", "hunter2", "no database URL"),
        ("CAPSTAN__QUEUE__URL", "nats://:hunter2@nats", "there is no such queue"),
        ("CAPSTAN__BROKER__URL", "amqp://ann:hunter2@:x/v", "cannot be read as a URL"),
        ("CAPSTAN__BROKER__URL", "http://ann:hunter2@mq", "there is no such broker"),
        ("CAPSTAN__CMDB__TOKEN", "hunter2://hunter2 x", "other characters"),
    ] {
        let faults = faults("", &[(key, value)]);
        assert!(faults.len() == 1 && faults[0].contains(problem), "{faults:?}");
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }
}

#[test]
fn every_network_needs_a_public_url() {
    let faults = faults("", &[("CAPSTAN__SERVER__LISTEN", "0.0.0.0:7070")]);
    assert!(faults[0].contains("server.public_url = \"\": it is needed"), "{faults:?}");
    let variables = [
        ("CAPSTAN__SERVER__LISTEN", "0.0.0.0:7070"),
        ("CAPSTAN__SERVER__PUBLIC_URL", "https://capstan.example/"),
    ];
    let server = load("", &variables).expect("it is good").config.server;
    assert_eq!(server.public_url, "https://capstan.example");
    assert_eq!(server.allowed_hosts, ["localhost", "127.0.0.1", "[::1]", "capstan.example"]);
    for (url, problem) in [
        ("capstan.example", "no URL"),
        ("ftp://capstan.example", "http:// or https://"),
        ("https://ann:hunter2@capstan.example", "a password"),
        ("https://capstan.example/?x", "without ? and #"),
        ("https://capstan.example/capstan", "must not have a path"),
    ] {
        let faults = self::faults("", &[("CAPSTAN__SERVER__PUBLIC_URL", url)]);
        assert!(faults[0].contains(problem), "{faults:?}");
    }
}

#[test]
fn every_name_can_be_allowed() {
    let loaded = load("[server]\nallowed_hosts = [\"*\"]\n", &[]).expect("it is good");
    assert!(loaded.config.server.allowed_hosts.is_empty());
}

#[test]
fn secrets_come_from_files_and_the_higher_layer_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("url"), "sqlite:///from/file.db\nmore\n").expect("a file");
    std::fs::write(folder.path().join("empty"), "\n").expect("a file");
    let write = |text: &str| std::fs::write(folder.path().join(USUAL_FILE), text).expect("a file");
    write("[database]\nurl_file = \"url\"\n");
    let loaded = load_in(folder.path(), &[]).expect("it is good");
    assert_eq!(loaded.config.database.url.expose(), "sqlite:///from/file.db");
    let variable = [("CAPSTAN__DATABASE__URL", "sqlite:///from/variable.db")];
    let loaded = load_in(folder.path(), &variable).expect("it is good");
    assert_eq!(loaded.config.database.url.expose(), "sqlite:///from/variable.db");

    for (text, problem) in [
        ("url_file = \"url\"\nurl = \"sqlite:///x\"", "only one of them can count"),
        ("url_file = \"nowhere\"", "cannot be read"),
        ("url_file = \"empty\"", "is empty"),
    ] {
        write(&format!("[database]\n{text}\n"));
        let error = load_in(folder.path(), &[]).expect_err("a fault").to_string();
        assert!(error.contains(problem) && error.contains("capstan.toml:2"), "{error}");
    }
    std::fs::write(folder.path().join("url"), "postgres://ann:hunter2@db\n").expect("a file");
    write("[database]\nurl_file = \"url\"\n");
    let error = load_in(folder.path(), &[]).expect_err("a fault").to_string();
    assert!(error.contains("it holds \"postgres://***@db\": it names no database"), "{error}");
}

#[test]
fn a_process_over_a_server_has_the_roles_that_it_is_given() {
    let server = "[database]\nurl = \"postgres://ann:hunter2@db/capstan\"\nlease_seconds = 5\n";
    let text = format!("roles = [\"engine\"]\n{server}");
    let mut config = load(&text, &[]).expect("it is good").config;
    assert_eq!(config.roles, Roles { controller: false, portal: false, engine: true });
    assert_eq!(config.database.lease, Duration::from_secs(5));
    config.take_roles(&[Role::Controller, Role::Portal]).expect("a server has room for all");
    assert_eq!(config.roles, Roles { controller: true, portal: true, engine: false });

    let mut config = load("", &[]).expect("it is good").config;
    assert_eq!(config.roles, Roles::ALL);
    let refused = config.take_roles(&[Role::Engine]).expect_err("a file has one process");
    assert!(refused.to_string().contains("--roles: database.url is a file"), "{refused}");
    for (roles, problem) in [
        ("[\"engine\"]", "database.url is a file"),
        ("[\"engin\"]", "there is no role \"engin\""),
        ("[]", "a process needs one at least"),
    ] {
        let error = load(&format!("roles = {roles}\n"), &[]).expect_err("a fault").to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn paths_in_a_file_count_from_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("etc")).expect("a folder");
    let file = Path::new("etc/my.toml");
    std::fs::write(folder.path().join(file), "data_dir = \"./data\"\n").expect("a file");
    let variables = [("CAPSTAN__CMDB__PATH".into(), "fleet.yaml".into())];
    let loaded = load_from(folder.path(), Some(file), variables.into_iter()).expect("it is good");
    assert_eq!(loaded.config.data_dir, folder.path().join("etc/data"));
    assert_eq!(loaded.config.packages.path, folder.path().join("etc/data/packages"));
    assert_eq!(loaded.config.cmdb.path, folder.path().join("fleet.yaml"));
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = load_from(folder.path(), Some(Path::new("no.toml")), std::iter::empty());
    let text = error.expect_err("it is not there").to_string();
    assert!(text.starts_with("the configuration file no.toml cannot be read"), "{text}");
}

#[test]
fn nothing_shows_a_password() {
    let shown = format!("{:?}", load("", &[]).expect("it is good"));
    assert!(shown.contains("capstan.db"), "{shown}");
    for name in ["database.url", "queue.url", "broker.url"] {
        assert_eq!(Key::find(name).map(|key| key.kind), Some(Kind::Secret), "{name}");
    }
}
