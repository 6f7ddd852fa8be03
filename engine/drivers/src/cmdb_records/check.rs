//! What a record must keep to before it counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Component, Path};

use capstan_core::ports::{CmdbApplication, CmdbGroup, CmdbServer};

use super::{Fault, Names, Place};

const LONGEST_NAME: usize = 128;
const LONGEST_SETTLE: u32 = 3600;

/// A record with the places that it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) group: CmdbGroup,
    pub(crate) place: Place,
    pub(crate) server_places: Vec<Place>,
}

impl Placed {
    fn servers(&self) -> impl Iterator<Item = (Place, &CmdbServer)> {
        let places = self.server_places.iter().copied().chain(std::iter::repeat(self.place));
        places.zip(&self.group.servers)
    }
}

/// What is wrong with a group by itself.
pub(crate) fn alone(placed: &Placed, names: &Names) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    let Placed { group, place, .. } = placed;
    let place = *place;
    faults.id(place, "id of the group", &group.id);
    faults.words(place, "name of the group", &group.name, Empty::Refused);
    faults.id(place, "id of the application", &group.application.id);
    faults.words(place, "name of the application", &group.application.name, Empty::Refused);
    faults.words(place, "site", &group.site, Empty::Allowed);
    faults.words(place, "idc", &group.idc, Empty::Allowed);
    if group.revision < 0 {
        faults.add(place, format!("the revision {} is below 0", group.revision));
    }
    if group.port == 0 {
        faults.add(place, "the port must be from 1 to 65535");
    }
    faults.health_url(place, group);
    faults.driver(place, "load balancer", &group.load_balancer, &names.load_balancers);
    if group.executors.is_empty() {
        faults.add(place, "executors is empty; it must name at least one");
    }
    for (number, name) in group.executors.iter().enumerate() {
        faults.driver(place, "executor", name, &names.executors);
        if group.executors[..number].contains(name) {
            faults.add(place, format!("executors names `{name}` twice"));
        }
    }
    if group.settle_seconds > LONGEST_SETTLE {
        faults.add(place, format!("settle_seconds must be at most {LONGEST_SETTLE}"));
    }
    if group.keep_releases == 0 {
        faults.add(place, "keep_releases must be at least 1");
    }
    let mut seen = HashMap::new();
    for (place, server) in placed.servers() {
        faults.server(place, group, server);
        let names = (&server.hostname, &server.instance);
        if let Some(first) = seen.insert(names, place) {
            faults.add(
                place,
                format!(
                    "the group has {} twice, first in {first}; instances of one host need \
                     different names in `instance`",
                    described(server)
                ),
            );
        }
    }
    faults.0
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Allowed,
    Refused,
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, place: Place, reason: impl Into<String>) {
        self.0.push(Fault::new(place, reason));
    }

    /// An id or a host name: it may become part of a path, an address or a command.
    fn id(&mut self, place: Place, what: &str, value: &str) {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        let is_good = value.len() <= LONGEST_NAME
            && value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && value.bytes().all(is_inner);
        if !is_good {
            self.add(
                place,
                format!(
                    "the {what} is `{value}`; it must begin with a letter or digit and hold only \
                     letters, digits and . _ : - (at most {LONGEST_NAME})"
                ),
            );
        }
    }

    /// A name for people.
    fn words(&mut self, place: Place, what: &str, value: &str, empty: Empty) {
        if value.trim().is_empty() {
            if empty == Empty::Refused || !value.is_empty() {
                self.add(place, format!("the {what} is empty"));
            }
        } else if value.chars().count() > LONGEST_NAME || value.chars().any(char::is_control) {
            self.add(
                place,
                format!("the {what} has control characters or more than {LONGEST_NAME} characters"),
            );
        }
    }

    fn health_url(&mut self, place: Place, group: &CmdbGroup) {
        let url = &group.health_check_url;
        if url.is_empty() {
            if group.load_balancer == "none" {
                self.add(
                    place,
                    "health_check_url is empty; without a load balancer nothing else tells \
                     whether a server serves",
                );
            }
        } else if !(url.starts_with("http://") || url.starts_with("https://"))
            || url.chars().any(|character| character.is_control() || character == ' ')
        {
            self.add(place, format!("health_check_url is `{url}`, which is no http or https URL"));
        }
    }

    fn driver(&mut self, place: Place, what: &str, name: &str, known: &[String]) {
        if !known.iter().any(|known| known == name) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            self.add(place, format!("there is no {what} named `{name}`; configured are: {known}"));
        }
    }

    fn server(&mut self, place: Place, group: &CmdbGroup, server: &CmdbServer) {
        self.id(place, "id of the server", &server.id);
        self.id(place, "hostname", &server.hostname);
        if !server.instance.is_empty() {
            self.id(place, "instance", &server.instance);
        }
        self.words(place, "pool", &server.pool, Empty::Allowed);
        self.words(place, "idc", server.idc.as_deref().unwrap_or(""), Empty::Allowed);
        if server.ip_address.parse::<IpAddr>().is_err() {
            self.add(place, format!("`{}` is no IP address", server.ip_address));
        }
        if server.port == Some(0) {
            self.add(place, "the port must be from 1 to 65535");
        }
        let root = root(group, server);
        let is_plain =
            |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        let path = Path::new(root);
        if root.is_empty() {
            self.add(
                place,
                format!("{} has no root, and the group has no doc_base", described(server)),
            );
        } else if !path.is_absolute()
            || path.parent().is_none()
            || !path.components().all(is_plain)
            || root.chars().any(char::is_control)
        {
            self.add(place, format!("the root `{root}` is no absolute path without `..`"));
        }
    }
}

/// What the groups that count have in use between them.
#[derive(Default)]
pub(super) struct Together {
    roots: HashMap<(String, String), String>,
    addresses: HashMap<(String, u16), String>,
    server_ids: HashSet<String>,
    applications: BTreeMap<String, (CmdbApplication, String)>,
    application_names: BTreeMap<String, (String, String)>,
}

impl Together {
    /// What of the group is in use by groups that were added before, or twice by itself.
    pub(super) fn clashes(&self, placed: &Placed) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut own = Self::default();
        let group = &placed.group;
        let application = &group.application;
        if let Some((other, of)) = self.applications.get(&application.id)
            && other != application
        {
            faults.push(Fault::new(
                placed.place,
                format!(
                    "the application {} is described differently in the group {of}",
                    application.id
                ),
            ));
        }
        if let Some((id, of)) = self.application_names.get(&application.name)
            && *id != application.id
        {
            faults.push(Fault::new(
                placed.place,
                format!(
                    "the application {} has the name `{}` of the application {id} in the group {of}",
                    application.id, application.name
                ),
            ));
        }
        for (place, server) in placed.servers() {
            if let Some(reason) = self.clash(group, server).or_else(|| own.clash(group, server)) {
                faults.push(Fault::new(place, reason));
            }
            own.add_server(group, server);
        }
        faults
    }

    /// Adds a group that counts.
    pub(super) fn add(&mut self, group: &CmdbGroup) {
        let application = &group.application;
        self.applications
            .entry(application.id.clone())
            .or_insert_with(|| (application.clone(), group.id.clone()));
        self.application_names
            .entry(application.name.clone())
            .or_insert_with(|| (application.id.clone(), group.id.clone()));
        for server in &group.servers {
            self.add_server(group, server);
        }
    }

    fn clash(&self, group: &CmdbGroup, server: &CmdbServer) -> Option<String> {
        if self.server_ids.contains(&server.id) {
            return Some(format!("the server id {} is used twice", server.id));
        }
        if server.retired {
            return None;
        }
        let root = root(group, server);
        if let Some(other) = self.roots.get(&place(group, server)) {
            return Some(format!(
                "{} has the root {root}, which is that of {other} on the same host",
                described(server)
            ));
        }
        let (address, port) = address(group, server);
        let other = self.addresses.get(&(address, port))?;
        Some(format!(
            "{} has the address {} and port {port}, which are those of {other}",
            described(server),
            server.ip_address
        ))
    }

    fn add_server(&mut self, group: &CmdbGroup, server: &CmdbServer) {
        self.server_ids.insert(server.id.clone());
        if server.retired {
            return;
        }
        let owner = format!("{} of the group {}", described(server), group.id);
        self.roots.entry(place(group, server)).or_insert_with(|| owner.clone());
        self.addresses.entry(address(group, server)).or_insert(owner);
    }
}

fn root<'a>(group: &'a CmdbGroup, server: &'a CmdbServer) -> &'a str {
    server.root.as_deref().unwrap_or(&group.doc_base)
}

fn place(group: &CmdbGroup, server: &CmdbServer) -> (String, String) {
    // Two spellings of one folder are one folder.
    let root: std::path::PathBuf = Path::new(root(group, server)).components().collect();
    (server.hostname.to_ascii_lowercase(), root.display().to_string())
}

fn address(group: &CmdbGroup, server: &CmdbServer) -> (String, u16) {
    let address = server.ip_address.parse::<IpAddr>();
    let address = address.map_or_else(|_| server.ip_address.clone(), |ip| ip.to_string());
    (address, server.port.unwrap_or(group.port))
}

fn described(server: &CmdbServer) -> String {
    if server.instance.is_empty() {
        server.hostname.clone()
    } else {
        format!("{} instance {}", server.hostname, server.instance)
    }
}
