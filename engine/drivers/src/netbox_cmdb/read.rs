//! From the JSON of NetBox to its objects.

use std::collections::BTreeMap;

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    /// How many objects the whole list has.
    pub(super) count: usize,
    /// The query of the next page's address.
    pub(super) next: Option<String>,
    pub(super) objects: Vec<Object>,
}

/// A device or a virtual machine, as far as it matters.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) kind: &'static str,
    pub(super) id: i64,
    /// What it is, or why that cannot be read.
    pub(super) fields: Result<Fields, String>,
    /// The custom fields, whatever else is broken: they say to which group it belongs.
    pub(super) custom_fields: BTreeMap<String, Value>,
}

/// Fields that devices and virtual machines have in common.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Fields {
    pub(super) name: Option<String>,
    pub(super) status: Status,
    pub(super) site: Option<Slug>,
    pub(super) primary_ip: Option<Address>,
    #[serde(default)]
    pub(super) tags: Vec<Slug>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    pub(super) value: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Slug {
    pub(super) slug: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Address {
    /// With the length of its prefix, as in `10.0.0.1/24`.
    pub(super) address: String,
}

/// Reads a page, or says why none of it can be used.
pub(super) fn page(bytes: &[u8], kind: &'static str) -> Result<Page, String> {
    #[derive(Deserialize)]
    struct Answer {
        count: usize,
        next: Option<String>,
        results: Vec<Value>,
    }
    let Answer { count, next, results } = serde_json::from_slice(bytes)
        .map_err(|error| format!("the answer is no list of NetBox: {error}"))?;
    let next = next.map(|next| match Url::parse(&next) {
        Ok(url) => Ok(url.query().unwrap_or_default().to_owned()),
        Err(error) => Err(format!("the address of the next page is `{next}`: {error}")),
    });
    let next = next.transpose()?;
    let objects = results.into_iter().map(|value| object(value, kind));
    Ok(Page { count, next, objects: objects.collect::<Result<_, _>>()? })
}

fn object(value: Value, kind: &'static str) -> Result<Object, String> {
    let id = value.get("id").and_then(Value::as_i64);
    let id = id.ok_or_else(|| format!("the answer has a {kind} without a number as id"))?;
    let custom_fields = value.get("custom_fields").and_then(Value::as_object);
    let custom_fields = custom_fields.cloned().unwrap_or_default().into_iter().collect();
    let fields = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." { reason.to_string() } else { format!("`{path}`: {reason}") }
    });
    Ok(Object { kind, id, fields, custom_fields })
}
