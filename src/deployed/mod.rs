//! The files in `docs/deploy`, and the commands in `docs/operations.md`, are such as this binary takes.

mod metrics;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::Parser;
use serde_json::Value;

use crate::config::{Loaded, load_from};
use crate::{Arguments, Command};

type Variables = BTreeMap<String, String>;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    let path = repository().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn deployed(name: &str) -> String {
    read(&format!("docs/deploy/{name}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&deployed(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The secrets, as `make-secrets` makes them.
struct Secrets(tempfile::TempDir);

impl Secrets {
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secrets = Self(folder);
        let script = repository().join("docs/deploy/make-secrets");
        let made = Process::new("sh").arg(script).arg(secrets.folder()).output().expect("sh");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // A binary that lacks Redis or RabbitMQ is given what it has instead.
        for (setting, plain) in [("queue", "database"), ("broker", "none")] {
            let path = secrets.folder().join(format!("{setting}_url"));
            let variable = format!("CAPSTAN__{}__URL_FILE", setting.to_uppercase());
            let variables = [(OsString::from(variable), path.clone().into_os_string())];
            let loaded = load_from(secrets.0.path(), None, variables.into_iter());
            if loaded.is_err_and(|error| error.to_string().contains("is not built in yet")) {
                std::fs::write(path, plain).expect("the secret is written");
            }
        }
        secrets
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("secrets")
    }
}

/// Checks settings as `capstan config check` does.
fn check(what: &str, variables: &Variables) -> Loaded {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let variables = variables.iter().map(|(name, text)| (OsString::from(name), text.into()));
    let loaded = load_from(folder.path(), None, variables);
    loaded.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// A command line of the binary, which goes with the settings if it serves.
fn parse(what: &str, words: &[String], settings: Option<&Loaded>) {
    let arguments = Arguments::try_parse_from(words);
    let arguments = arguments.unwrap_or_else(|error| panic!("{what}: {words:?}: {error}"));
    if let (Command::Serve(serve), Some(settings)) = (&arguments.command, settings)
        && !serve.roles.is_empty()
    {
        let taken = settings.config.clone().take_roles(&serve.roles);
        taken.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// The words of a line as a shell takes them, as far as double quotes go.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

const UNITS: [&str; 3] =
    ["capstan.service", "capstan-controller@.service", "capstan-engine@.service"];

/// The settings of a unit by name, in their order.
fn unit(name: &str, secrets: &Secrets) -> Vec<(String, String)> {
    let folder = secrets.folder().display().to_string();
    let lines = deployed(name);
    let lines = lines.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty());
    lines
        .map(|line| {
            let (name, text) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
            (name.to_owned(), text.replace("%d", &folder).replace("%i", "7070"))
        })
        .collect()
}

fn all<'a>(unit: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    unit.iter().filter(move |it| it.0 == name).map(|it| it.1.as_str())
}

#[test]
fn units_start_what_the_binary_knows_and_stop_it_gently() {
    let secrets = Secrets::make();
    for name in UNITS {
        let unit = unit(name, &secrets);
        let settings = all(&unit, "Environment").map(|it| it.split_once('=').expect("NAME=text"));
        let settings: Variables =
            settings.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let loaded = check(name, &settings);
        for command in all(&unit, "ExecStartPre").chain(all(&unit, "ExecStart")) {
            assert!(command.starts_with("/usr/local/bin/capstan "), "{name}: {command}");
            parse(name, &words(command), Some(&loaded));
        }
        let stop: u64 = all(&unit, "TimeoutStopSec").next().expect("it").parse().expect("seconds");
        let waits = loaded.config.engine.stop_wait.as_secs();
        assert!(stop >= waits + 20, "{name}: a stop of {waits} s does not fit into {stop} s");
        for (setting, wanted) in [("SuccessExitStatus", "75"), ("Restart", "always")] {
            assert_eq!(all(&unit, setting).collect::<Vec<_>>(), [wanted], "{name}: {setting}");
        }
        for credential in all(&unit, "LoadCredential") {
            let (id, _) = credential.split_once(':').expect("ID:PATH");
            let is_read = settings.values().any(|it| it.ends_with(&format!("/{id}")));
            assert!(is_read, "{name}: nothing reads the credential {id}");
        }
    }
}

#[test]
fn a_unit_with_an_engine_leaves_the_instances_alone() {
    let secrets = Secrets::make();
    for name in ["capstan.service", "capstan-engine@.service"] {
        let unit = unit(name, &secrets);
        assert_eq!(all(&unit, "KillMode").collect::<Vec<_>>(), ["process"], "{name}");
        for setting in ["MemoryDenyWriteExecute", "SystemCallFilter", "PrivateTmp"] {
            assert_eq!(all(&unit, setting).next(), None, "{name}: instances would inherit it");
        }
    }
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.map(|item| item.as_str().expect("a text").to_owned()).collect()
}

/// What a service of the set is given, by the name of the file in the set.
fn secrets_of(service: &Value) -> Vec<String> {
    let items = service["secrets"].as_array().into_iter().flatten();
    let name = |item: &Value| item.as_str().or(item["source"].as_str()).map(str::to_owned);
    items.map(|item| name(item).expect("a name")).collect()
}

#[test]
fn the_set_names_settings_commands_and_secrets_that_are_known() {
    let secrets = Secrets::make();
    let set = yaml("docker-compose.yml");
    let image = Image::read();
    let services = set["services"].as_object().expect("services");
    let mut ours = 0;
    for (name, service) in services {
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to the network");
        }
        for secret in secrets_of(service) {
            let file = set["secrets"][&secret]["file"].as_str().unwrap_or_default();
            let file =
                file.strip_prefix("./secrets/").unwrap_or_else(|| panic!("{name}: {secret}"));
            assert!(secrets.folder().join(file).exists(), "make-secrets makes no {file}");
        }
        for volume in texts(&service["volumes"]) {
            let (volume, _) = volume.split_once(':').expect("VOLUME:PATH");
            assert!(set["volumes"].get(volume).is_some(), "{name}: {volume}");
        }
        let environment = service["environment"].as_object().cloned().unwrap_or_default();
        let is_plain = |it: &&String| it.ends_with("PASSWORD") || it.ends_with("TOKEN");
        assert_eq!(environment.keys().find(is_plain), None, "{name}: a secret in the open");
        if service["image"] != "capstan" {
            assert!(service["healthcheck"]["test"].is_array(), "{name}: who says that it is well?");
            continue;
        }
        ours += 1;
        let mut settings = image.environment.clone();
        for (setting, text) in environment {
            let text = text.as_str().expect("a text");
            if let Some(secret) = text.strip_prefix("/run/secrets/") {
                let is_given = secrets_of(service).iter().any(|it| it == secret);
                assert!(is_given, "{name}: {setting} reads a secret that the service is not given");
            }
            let folder = format!("{}/", secrets.folder().display());
            settings.insert(setting, text.replace("/run/secrets/", &folder));
        }
        let loaded = check(name, &settings);
        parse(name, &image.command(&texts(&service["command"])), Some(&loaded));
        let stop = service["stop_grace_period"].as_str().and_then(|it| it.strip_suffix('s'));
        let stop: u64 = stop.expect("seconds").parse().expect("a number");
        assert!(
            stop >= loaded.config.engine.stop_wait.as_secs() + 20,
            "{name}: it stops in {stop} s"
        );
    }
    assert_eq!(ours, 4, "two controllers and two engines");
}

/// What `Dockerfile` says of its image.
struct Image {
    instructions: Vec<(String, String)>,
    environment: Variables,
}

impl Image {
    fn read() -> Self {
        let text = deployed("Dockerfile").replace("\\\n", " ");
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let split = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
        let instructions: Vec<_> = lines.map(|line| split(line).expect("WORD rest")).collect();
        let environment = instructions.iter().filter(|it| it.0 == "ENV");
        let environment = environment.flat_map(|it| words(&it.1));
        let environment = environment.map(|it| {
            let (name, text) = it.split_once('=').expect("NAME=text");
            (name.to_owned(), text.to_owned())
        });
        Self { environment: environment.collect(), instructions }
    }

    /// The last of its kind, which is the one of the image.
    fn last(&self, word: &str) -> &str {
        let last = self.instructions.iter().rfind(|it| it.0 == word);
        &last.unwrap_or_else(|| panic!("no {word}")).1
    }

    fn words_of(&self, word: &str) -> Vec<String> {
        let text = self.last(word);
        let list = &text[text.find('[').unwrap_or_else(|| panic!("{word} is no list"))..];
        serde_json::from_str(list).unwrap_or_else(|error| panic!("{word} {list}: {error}"))
    }

    /// The command line of the binary when a container is started with these words.
    fn command(&self, words: &[String]) -> Vec<String> {
        let entry = self.words_of("ENTRYPOINT");
        let ours = entry.iter().position(|it| it == "capstan").expect("capstan");
        [&entry[ours..], words].concat()
    }
}

#[test]
fn the_image_is_built_with_the_pinned_rust_and_runs_as_nobody_special() {
    let image = Image::read();
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().expect("TOML");
    let pinned = toolchain["toolchain"]["channel"].as_str().expect("a channel");
    let from = &image.instructions.iter().find(|it| it.0 == "FROM").expect("FROM").1;
    assert!(from.starts_with(&format!("rust:{pinned}-")), "{from}, and Rust is {pinned}");
    let user = image.last("USER").split(':').next().and_then(|it| it.parse::<u32>().ok());
    assert!(user.is_some_and(|user| user > 0), "it runs as {user:?}");
    parse("HEALTHCHECK", &image.words_of("HEALTHCHECK"), None);
    // What only who runs it can say.
    let mut settings = image.environment.clone();
    settings.insert("CAPSTAN__SERVER__PUBLIC_URL".to_owned(), "http://capstan.example".to_owned());
    let loaded = check("ENV", &settings);
    parse("CMD", &image.command(&image.words_of("CMD")), Some(&loaded));
}

/// A file that the build reads and the builder does not get would be found at the next build of an image,
/// which no test does.
#[test]
fn the_builder_gets_what_cargo_reads() {
    let ignored = deployed("Dockerfile.dockerignore");
    let given: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for name in &given {
        assert!(repository().join(name).exists(), "there is no {name}");
    }
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let members = manifest["workspace"]["members"].as_array().expect("members").iter();
    let members = members.map(|it| it.as_str().expect("a path"));
    let needed = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "src", "config.default.toml"];
    for path in members.chain(needed).chain([".cargo", "agent-scripts", "benches", "tests"]) {
        let first = path.split('/').next().expect("a name");
        assert!(given.contains(&first), "{first} does not come to the builder");
    }
}

#[test]
fn the_commands_for_people_on_call_are_known() {
    let page = read("docs/operations.md");
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut found = 0;
    for line in blocks.flat_map(str::lines) {
        let line = line.split(" #").next().unwrap_or_default();
        let words = words(line);
        let is_setting = |word: &String| word.contains('=') && !word.starts_with('-');
        let words: Vec<String> = words.into_iter().skip_while(is_setting).collect();
        // The demo takes its database from a variable of the line before.
        if words.first().is_some_and(|word| word == "capstan") && words[1] != "demo" {
            parse("docs/operations.md", &words, None);
            found += 1;
        }
    }
    assert!(found >= 10, "only {found} commands are on the page");
}
