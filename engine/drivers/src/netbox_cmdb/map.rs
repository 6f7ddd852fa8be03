//! What objects of NetBox mean: which group they belong to, and what a group is.

use std::collections::BTreeMap;

use capstan_core::ports::{CmdbApplication, CmdbGroup, CmdbServer};
use capstan_core::record::{BastionRule, OnLbFailure, ScaleOut};
use serde_json::Value;

use super::read::{Fields, Object};
use crate::cmdb_records::{Entry, Fault, Names, Place, Placed, alone};

/// What objects of NetBox mean. Custom fields are named as in its API, tags by their slug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Only objects with this tag count; empty: all that have a group.
    pub tag: String,
    /// Custom field: the group that the object belongs to.
    pub group_field: String,
    /// Custom field: the application of the group; empty, or not set on an object: the group's name.
    pub application_field: String,
    /// Custom field: port of the server; empty, or not set: the group's.
    pub port_field: String,
    /// Custom field: folder of the instance on the host; empty, or not set: the group's `doc_base`.
    pub root_field: String,
    /// Custom field: pool within the data centre; empty: none.
    pub pool_field: String,
    /// Custom field: whether new servers of the group get its version by themselves, `manual` or `automatic`;
    /// empty, or not set on any object of the group: `manual`.
    pub scale_out_field: String,
    /// Custom field: what happens when the load balancer does not answer, `brake` or `bypass`; empty, or not set
    /// on any object of the group: `brake`.
    pub on_lb_failure_field: String,
    /// Custom field: whether the last server in service may be taken, `true` or `false`; empty, or not set on any
    /// object of the group: `false`.
    pub may_go_dark_field: String,
    /// Servers with this tag are bastions.
    pub bastion_tag: String,
    /// Objects with one of these statuses are members, others are retired.
    pub statuses: Vec<String>,
    /// Default port of a group's servers.
    pub port: u16,
    /// Health URL with `{ip}` and `{port}`; `{group}` and `{application}` are filled in here.
    pub health_check_url: String,
    /// Physical path; `{group}` and `{application}` are filled in.
    pub doc_base: String,
    /// For example `prod`.
    pub environment: String,
    /// Chooses the host scripts.
    pub kind: String,
    /// Name of the load-balancer driver.
    pub load_balancer: String,
    /// Name of the executor.
    pub executor: String,
}

/// Words for [`ScaleOut`].
const SCALE_OUT: Words<ScaleOut> =
    &[("manual", ScaleOut::Manual), ("automatic", ScaleOut::Automatic)];
/// Words for [`OnLbFailure`].
const ON_LB_FAILURE: Words<OnLbFailure> =
    &[("brake", OnLbFailure::Brake), ("bypass", OnLbFailure::Bypass)];
/// Words for a switch.
const SWITCH: Words<bool> = &[("true", true), ("false", false)];

/// The words that a custom field may hold, and what each stands for.
type Words<T> = &'static [(&'static str, T)];

/// The objects of one group.
#[derive(Default)]
struct Members {
    applications: BTreeMap<String, Place>,
    scale_out: Said<ScaleOut>,
    on_lb_failure: Said<OnLbFailure>,
    may_go_dark: Said<bool>,
    servers: Vec<(Place, CmdbServer)>,
    faults: Vec<Fault>,
}

/// The groups that objects belong to, and what is wrong with objects that belong to none.
pub(super) fn groups(
    objects: Vec<Object>,
    mapping: &Mapping,
    names: &Names,
) -> (Vec<Entry>, Vec<Fault>) {
    let (mut groups, mut faults) = (BTreeMap::<String, Members>::new(), Vec::new());
    for object in objects {
        let place = Place::Object { kind: object.kind, id: object.id };
        match word(&object, &mapping.group_field) {
            Ok(Some(group)) => groups.entry(group).or_default().add(place, &object, mapping),
            // Somebody tagged it, and it belongs nowhere.
            Ok(None) if !mapping.tag.is_empty() => {
                let reason = format!("the custom field {} is not set", mapping.group_field);
                faults.push(Fault::new(place, reason));
            }
            Ok(None) => {}
            Err(reason) => faults.push(Fault::new(place, reason)),
        }
    }
    let entries = groups.into_iter().map(|(id, members)| members.entry(id, mapping, names));
    (entries.collect(), faults)
}

impl Members {
    fn add(&mut self, place: Place, object: &Object, mapping: &Mapping) {
        match text(object, &mapping.application_field) {
            Ok(Some(application)) => {
                self.applications.entry(application).or_insert(place);
            }
            Ok(None) => {}
            Err(reason) => self.faults.push(Fault::new(place, reason)),
        }
        let told = [
            self.scale_out.hear(place, one_of(object, &mapping.scale_out_field, SCALE_OUT)),
            self.on_lb_failure
                .hear(place, one_of(object, &mapping.on_lb_failure_field, ON_LB_FAILURE)),
            self.may_go_dark.hear(place, one_of(object, &mapping.may_go_dark_field, SWITCH)),
        ];
        self.faults.extend(told.into_iter().filter_map(Result::err));
        match server(object, mapping) {
            Ok(server) => self.servers.push((place, server)),
            Err(reason) => self.faults.push(Fault::new(place, reason)),
        }
    }

    fn entry(self, id: String, mapping: &Mapping, names: &Names) -> Entry {
        let Self { applications, scale_out, on_lb_failure, may_go_dark, servers, mut faults } =
            self;
        let places: Vec<Place> = servers.iter().map(|(place, _)| *place).collect();
        let broken = faults.first().and_then(|fault| fault.place);
        let place = places.first().copied().or(broken).unwrap_or(Place::Answer);
        if let [(first, _), (other, at), ..] = applications.iter().collect::<Vec<_>>().as_slice() {
            let reason = format!("the group has two applications, {first} and {other}");
            faults.push(Fault::new(**at, reason));
        }
        faults.extend(scale_out.doubled(&mapping.scale_out_field));
        faults.extend(on_lb_failure.doubled(&mapping.on_lb_failure_field));
        faults.extend(may_go_dark.doubled(&mapping.may_go_dark_field));
        let application = applications.into_keys().next().unwrap_or_else(|| id.clone());
        let servers = servers.into_iter().map(|(_, server)| server).collect();
        let group = CmdbGroup {
            scale_out: scale_out.value(),
            on_lb_failure: on_lb_failure.value(),
            may_go_dark: may_go_dark.value(),
            ..mapping.group(&id, application, servers)
        };
        let record = Placed { group, place, server_places: places };
        faults.extend(alone(&record, names));
        let record = if faults.is_empty() { Ok(record) } else { Err(faults) };
        Entry { place, id: Some(id), record }
    }
}

/// What the objects of a group say of it by one custom field: each word once, with who said it first.
struct Said<T>(BTreeMap<&'static str, (Place, T)>);

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Copy + Default> Said<T> {
    /// Takes what an object says, if it says something, or gives what is wrong with it.
    fn hear(
        &mut self,
        place: Place,
        said: Result<Option<(&'static str, T)>, String>,
    ) -> Result<(), Fault> {
        if let Some((word, value)) = said.map_err(|reason| Fault::new(place, reason))? {
            self.0.entry(word).or_insert((place, value));
        }
        Ok(())
    }

    /// That objects of one group say different things.
    fn doubled(&self, field: &str) -> Option<Fault> {
        let mut words = self.0.iter();
        let ((first, _), (other, (place, _))) = (words.next()?, words.next()?);
        let reason = format!(
            "the group has two values in the custom field {field}, {first} and {other}; where it is \
             set, it must be the same"
        );
        Some(Fault::new(*place, reason))
    }

    /// What is said; the default if nothing is.
    fn value(&self) -> T {
        self.0.values().next().map(|(_, value)| *value).unwrap_or_default()
    }
}

impl Mapping {
    /// The group, as far as the configuration says what it is, and with defaults for the rest.
    fn group(&self, id: &str, application: String, servers: Vec<CmdbServer>) -> CmdbGroup {
        let fill = |text: &str| text.replace("{group}", id).replace("{application}", &application);
        // Where all of it lies in one place, that is the group's.
        let mut sites = servers.iter().map(|server| server.idc.clone().unwrap_or_default());
        let site = sites.next().unwrap_or_default();
        let site = if sites.all(|other| other == site) { site } else { String::new() };
        CmdbGroup {
            id: id.to_owned(),
            // NetBox has none for what we make of its objects.
            revision: 0,
            name: id.to_owned(),
            site: site.clone(),
            virtual_path: String::new(),
            doc_base: fill(&self.doc_base),
            port: self.port,
            health_check_url: fill(&self.health_check_url),
            idc: site,
            load_balancer: self.load_balancer.clone(),
            executors: vec![self.executor.clone()],
            may_go_dark: false,
            on_lb_failure: OnLbFailure::default(),
            scale_out: ScaleOut::default(),
            settle_seconds: 5,
            keep_releases: 5,
            servers,
            application: CmdbApplication {
                id: application.clone(),
                name: application,
                owner: String::new(),
                environment: self.environment.clone(),
                kind: self.kind.clone(),
                bastion: BastionRule::default(),
            },
        }
    }
}

fn server(object: &Object, mapping: &Mapping) -> Result<CmdbServer, String> {
    let Fields { name, status, site, primary_ip, tags } = object.fields.as_ref()?;
    let hostname = name.clone().ok_or("it has no name")?;
    let address = primary_ip.as_ref().ok_or("it has no primary IP address")?;
    let ip_address = address.address.split('/').next().unwrap_or_default().to_owned();
    Ok(CmdbServer {
        id: format!("{}-{}", object.kind.replace(' ', "-"), object.id),
        hostname,
        instance: String::new(),
        ip_address,
        port: port(object, &mapping.port_field)?,
        root: text(object, &mapping.root_field)?,
        idc: site.as_ref().map(|site| site.slug.clone()),
        pool: text(object, &mapping.pool_field)?.unwrap_or_default(),
        is_bastion: tags.iter().any(|tag| tag.slug == mapping.bastion_tag),
        retired: !mapping.statuses.contains(&status.value),
    })
}

/// A custom field that NetBox can be asked for by what it holds: a text or a choice.
fn word(object: &Object, field: &str) -> Result<Option<String>, String> {
    if object.custom_fields.get(field).is_some_and(Value::is_object) {
        return Err(format!("the custom field {field} must be a text or a choice"));
    }
    text(object, field)
}

/// A custom field that holds a text, a choice, a number, or another object with a name.
fn text(object: &Object, field: &str) -> Result<Option<String>, String> {
    let text = match object.custom_fields.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => Some(text.trim().to_owned()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::Object(other)) => other.get("name").and_then(Value::as_str).map(str::to_owned),
        Some(Value::Bool(_) | Value::Array(_)) => None,
    };
    let text = text.ok_or_else(|| {
        format!("the custom field {field} must be one text, one choice or an object with a name")
    })?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A custom field that holds one of a few words. What is true or false may be a switch in `NetBox`, too.
fn one_of<T: Copy>(
    object: &Object,
    field: &str,
    words: Words<T>,
) -> Result<Option<(&'static str, T)>, String> {
    let given = match object.custom_fields.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(other) => other.to_string(),
    };
    let known = words.iter().find(|(word, _)| *word == given);
    known.map(|known| Some(*known)).ok_or_else(|| {
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("the custom field {field} is `{given}`; it must be {}", allowed.join(" or "))
    })
}

fn port(object: &Object, field: &str) -> Result<Option<u16>, String> {
    let Some(text) = text(object, field)? else { return Ok(None) };
    let port = text.parse().ok().filter(|port| *port > 0);
    port.map(Some)
        .ok_or_else(|| format!("the custom field {field} is `{text}`; a port is from 1 to 65535"))
}
