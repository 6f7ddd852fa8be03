//! Where applications, groups and servers come from.

use std::path::Path;
use std::time::Duration;

use capstan_core::decide::HOLD_ABOVE;
use capstan_core::share::Share;
use capstan_drivers::netbox_cmdb::Mapping;
use reqwest::Url;

use super::root;
use crate::config::reader::{Problem, Reader};
use crate::config::secret::Secret;
use crate::config::{Cmdb, CmdbDriver};

pub(super) fn cmdb(reader: &mut Reader<'_>, data_dir: &Path) -> Cmdb {
    let driver = reader.read_text("cmdb.driver", |text| match text {
        "file" => Ok(CmdbDriver::File),
        "http" => Ok(CmdbDriver::Http),
        "netbox" => Ok(CmdbDriver::Netbox),
        _ => Err("there is no such driver".to_owned()),
    });
    let faults = reader.faults.len();
    let url = reader.read_text("cmdb.url", |text| match text {
        "" => Ok(None),
        text => base_url(text).map(Some),
    });
    let is_unset = url.is_none() && reader.faults.len() == faults;
    if is_unset && driver != CmdbDriver::File {
        let word = if driver == CmdbDriver::Http { "http" } else { "netbox" };
        let problem = format!("it is needed, since cmdb.driver is {word:?}");
        reader.refuse("cmdb.url", problem);
    }
    Cmdb {
        driver,
        path: reader.path_or("cmdb.path", data_dir, "cmdb.yaml"),
        url,
        token: token(reader),
        timeout: Duration::from_millis(reader.whole("cmdb.timeout_ms", 100, 5000)),
        poll: Duration::from_secs(reader.whole("cmdb.poll_seconds", 1, 3600)),
        hold_above: share(reader),
        netbox: netbox(reader),
        stale_after: Duration::from_secs(reader.whole("cmdb.stale_after_seconds", 10, 604_800)),
    }
}

/// The share of a group that a refresh may remove without a person.
fn share(reader: &mut Reader<'_>) -> Share {
    let percent = reader.whole("cmdb.hold_above_percent", 1, 100);
    u8::try_from(percent)
        .ok()
        .and_then(|percent| Share::try_from(percent).ok())
        .unwrap_or(HOLD_ABOVE)
}

fn netbox(reader: &mut Reader<'_>) -> Mapping {
    let port = reader.whole("cmdb.netbox.port", 1, u64::from(u16::MAX));
    let statuses = reader.read_texts("cmdb.netbox.statuses", slug);
    if statuses.is_empty() {
        reader.refuse(
            "cmdb.netbox.statuses",
            "it is empty: every server would be retired".to_owned(),
        );
    }
    Mapping {
        tag: reader.read_text("cmdb.netbox.tag", slug),
        group_field: reader.read_text("cmdb.netbox.group_field", |text| match text {
            "" => Err("it is needed".to_owned()),
            text => custom_field(text),
        }),
        application_field: reader.read_text("cmdb.netbox.application_field", custom_field),
        port_field: reader.read_text("cmdb.netbox.port_field", custom_field),
        root_field: reader.read_text("cmdb.netbox.root_field", custom_field),
        pool_field: reader.read_text("cmdb.netbox.pool_field", custom_field),
        scale_out_field: reader.read_text("cmdb.netbox.scale_out_field", custom_field),
        on_lb_failure_field: reader.read_text("cmdb.netbox.on_lb_failure_field", custom_field),
        may_go_dark_field: reader.read_text("cmdb.netbox.may_go_dark_field", custom_field),
        bastion_tag: reader.read_text("cmdb.netbox.bastion_tag", slug),
        statuses,
        port: u16::try_from(port).unwrap_or(u16::MAX),
        health_check_url: reader.read_text("cmdb.netbox.health_check_url", |text| {
            if text.starts_with("http://") || text.starts_with("https://") {
                Ok(text.to_owned())
            } else {
                Err("it does not begin with http:// or https://".to_owned())
            }
        }),
        doc_base: reader
            .read_text("cmdb.netbox.doc_base", |text| root(text).map(|_| text.to_owned())),
        environment: reader.text("cmdb.netbox.environment"),
        kind: reader.text("cmdb.netbox.kind"),
        load_balancer: reader.text("cmdb.netbox.load_balancer"),
        executor: reader.text("cmdb.netbox.executor"),
    }
}

fn custom_field(text: &str) -> Result<String, Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err("it is no name of a custom field".to_owned())
}

fn slug(text: &str) -> Result<String, Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if text.bytes().all(good) { Ok(text.to_owned()) } else { Err(format!("{text:?} is no slug")) }
}

/// A URL below which something is asked for.
fn base_url(text: &str) -> Result<Url, Problem> {
    let url: Url = text.parse().map_err(|error| format!("it is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it does not begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user or a password: give cmdb.token".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must end with the path, without ? and #".to_owned());
    }
    Ok(url)
}

fn token(reader: &mut Reader<'_>) -> Secret {
    const NAMES: (&str, &str) = ("cmdb.token", "cmdb.token_file");
    let token = reader.secret(NAMES.0, NAMES.1);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !token.expose().bytes().all(good) {
        reader.refuse_secret(NAMES, "it holds other characters".to_owned());
        return Secret::new("");
    }
    token
}
