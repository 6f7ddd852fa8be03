//! NetBox as CMDB, against a server that answers in its shapes.

mod netbox;

use std::time::Duration;

use capstan_core::ports::{Cmdb, DriverError};
use capstan_core::record::{OnLbFailure, ScaleOut};
use capstan_drivers::netbox_cmdb::Mapping;
use netbox::{Server, V1, V2, device, machine, mapping, nested};
use serde_json::{Value, json};

#[tokio::test]
async fn devices_and_machines_become_groups() {
    let server = Server::start().await;
    let mut bastion = device(1, "web-1", "web-prod");
    bastion["tags"].as_array_mut().expect("tags").push(nested(2, "Bastion"));
    let mut other = device(2, "web-2", "web-prod");
    other["custom_fields"]["capstan_port"] = json!(8081);
    other["custom_fields"]["capstan_root"] = json!("/srv/web-2");
    other["custom_fields"]["capstan_pool"] = nested(1, "A");
    other["site"] = nested(2, "PD");
    let mut planned = device(3, "web-3", "web-prod");
    planned["status"] = json!({"value": "planned", "label": "Planned"});
    let mut alone = device(4, "alone", "web-prod");
    alone["tags"] = json!([]);
    let mut vm = machine(1, "web-vm", "web-prod");
    vm["site"] = Value::Null;
    vm["primary_ip"]["address"] = json!("2001:db8::1/64");
    let mut db = machine(2, "db-1", "db");
    db["primary_ip"]["address"] = json!("10.0.1.2/24");
    db["custom_fields"]["capstan_application"] = Value::Null;
    {
        let mut netbox = server.netbox();
        netbox.devices = vec![bastion, other, planned, alone];
        netbox.machines = vec![vm, db];
    }
    let groups = server.groups().await;
    assert_eq!(server.cmdb.faults(), Vec::<String>::new());
    let [db, web] = groups.as_slice() else { panic!("{groups:?}") };
    assert_eq!((db.application.name.as_str(), db.doc_base.as_str()), ("db", "/srv/db"));
    assert_eq!((db.idc.as_str(), db.site.as_str()), ("sh", "sh"));
    assert_eq!((web.name.as_str(), web.application.id.as_str()), ("web-prod", "web"));
    assert_eq!((web.doc_base.as_str(), web.idc.as_str(), web.port), ("/srv/web", "", 8080));
    assert_eq!(web.health_check_url, "http://{ip}:{port}/healthz");
    assert_eq!(web.revision, 0, "NetBox gives none");
    let shown: Vec<_> = web
        .servers
        .iter()
        .map(|it| (it.id.as_str(), it.ip_address.as_str(), it.idc.as_deref(), it.retired))
        .collect();
    let expected = [
        ("device-1", "10.0.0.1", Some("sh"), false),
        ("device-2", "10.0.0.2", Some("pd"), false),
        ("device-3", "10.0.0.3", Some("sh"), true),
        ("virtual-machine-1", "2001:db8::1", None, false),
    ];
    assert_eq!(shown, expected);
    assert_eq!(
        web.servers.iter().map(|it| it.is_bastion).collect::<Vec<_>>(),
        [true, false, false, false]
    );
    let other = &web.servers[1];
    assert_eq!((other.port, other.root.as_deref()), (Some(8081), Some("/srv/web-2")));
    assert_eq!(other.pool, "A");
    // The same, asked for by itself; NetBox finds `web-prod-2` as well.
    server.netbox().devices.push(device(9, "web-9", "web-prod-2"));
    assert_eq!(server.cmdb.group("web-prod").await.as_ref(), Ok(&Some(web.clone())));
    assert_eq!(server.cmdb.group("web").await, Ok(None));
    server.netbox().devices.pop();
    assert_eq!(server.groups().await, groups);
    server.netbox().machines.remove(0);
    let after = server.groups().await;
    assert_eq!(after[1].servers.len(), 3);
}

#[tokio::test]
async fn a_group_opts_in_by_custom_fields_of_any_of_its_servers() {
    let server = Server::start().await;
    let usual = (ScaleOut::Manual, OnLbFailure::Brake, false);
    let other = (ScaleOut::Automatic, OnLbFailure::Bypass, true);
    let unset = || [Value::Null, Value::Null, Value::Null];
    let set = |mut object: Value, words: [Value; 3]| {
        for (field, word) in ["scale_out", "on_lb_failure", "may_go_dark"].iter().zip(words) {
            object["custom_fields"][format!("capstan_{field}")] = word;
        }
        object
    };
    for (first, second, expected) in [
        (unset(), [json!(""), json!(" "), json!(null)], usual),
        ([json!("manual"), json!("brake"), json!(false)], unset(), usual),
        (unset(), [json!("automatic"), json!("bypass"), json!(true)], other),
        // A text in place of a switch.
        (
            [json!("automatic"), json!("bypass"), json!("true")],
            [json!(" automatic "), json!("bypass"), json!(true)],
            other,
        ),
    ] {
        let web = set(device(1, "web-1", "web-prod"), first);
        server.netbox().devices = vec![web];
        server.netbox().machines = vec![set(machine(2, "web-2", "web-prod"), second)];
        let groups = server.groups().await;
        assert_eq!(server.cmdb.faults(), Vec::<String>::new());
        let web = &groups[0];
        assert_eq!((web.scale_out, web.on_lb_failure, web.may_go_dark), expected);
        assert_eq!(server.cmdb.group("web-prod").await, Ok(Some(web.clone())));
    }
    // Nothing is read that the configuration does not name.
    let none = String::new;
    let silent = Mapping {
        scale_out_field: none(),
        on_lb_failure_field: none(),
        may_go_dark_field: none(),
        ..mapping()
    };
    let server = Server::with(V2, silent).await;
    let words = [json!("automatic"), json!("bypass"), json!(true)];
    server.netbox().devices = vec![set(device(1, "web-1", "web-prod"), words)];
    let web = &server.groups().await[0];
    assert_eq!((web.scale_out, web.on_lb_failure, web.may_go_dark), usual);
}

#[tokio::test]
async fn tokens_of_both_versions_are_shown_as_netbox_wants_them() {
    for (token, is_good) in [(V1, true), (V2, true), ("nbt_wrong.token", false)] {
        let server = Server::with(token, mapping()).await;
        server.netbox().devices = vec![device(1, "web-1", "web-prod")];
        match server.cmdb.groups().await {
            Ok(groups) => assert!(is_good && groups.len() == 1, "{token}"),
            Err(error) => {
                assert!(!is_good && matches!(error, DriverError::Refused(_)), "{error}");
                let text = error.to_string();
                assert!(text.contains("is the token right?") && !text.contains(token), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_list_that_changes_while_it_is_read_is_read_again() {
    let server = Server::start().await;
    let devices = || (1..=6).map(|id| device(id, &format!("web-{id}"), "web-prod")).collect();
    server.netbox().devices = devices();
    server.netbox().changing = 2;
    let groups = server.groups().await;
    // No server is missing but those that are gone.
    let names: Vec<&str> = groups[0].servers.iter().map(|it| it.hostname.as_str()).collect();
    assert_eq!(names, ["web-3", "web-4", "web-5", "web-6"]);

    // As many as before, and yet one would be missing between two pages.
    server.netbox().devices = devices();
    server.netbox().changing = 1;
    server.netbox().replaces = true;
    let groups = server.groups().await;
    let names: Vec<&str> = groups[0].servers.iter().map(|it| it.hostname.as_str()).collect();
    assert_eq!(names, ["web-2", "web-3", "web-4", "web-5", "web-6", "web-100"]);

    server.netbox().replaces = false;
    server.netbox().devices = devices();
    server.netbox().changing = usize::MAX;
    server.netbox().largest_page = 1;
    let error = server.cmdb.groups().await.expect_err("it does not stop changing").to_string();
    assert!(error.contains("the list changed while it was read"), "{error}");
    assert_eq!(server.cmdb.faults(), [format!("{error} (nothing of it is used)")]);

    let server = Server::start().await;
    server.netbox().devices = devices();
    server.netbox().repeats = true;
    let error = server.cmdb.groups().await.expect_err("it repeats").to_string();
    assert!(error.contains("the list changed while it was read"), "{error}");
    assert_eq!(server.netbox().asked.len(), 6, "two pages, three times");
}

/// What is changed in a good device, and what is said of it.
fn broken() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("/name", Value::Null, "device 1, group web-prod: it has no name"),
        ("/name", json!("web 1"), "device 1, group web-prod: the hostname is `web 1`"),
        ("/name", json!(7), "device 1, group web-prod: `name`: invalid type: integer `7`"),
        ("/primary_ip", Value::Null, "device 1, group web-prod: it has no primary IP address"),
        (
            "/primary_ip/address",
            json!("web/24"),
            "device 1, group web-prod: `web` is no IP address",
        ),
        ("/primary_ip/address", json!("10.0.0.2/24"), "has the address 10.0.0.2 and port 8080"),
        ("/status", json!("active"), "device 1, group web-prod: `status`: invalid type"),
        ("/tags/0/slug", json!(1), "device 1, group web-prod: `tags[0].slug`: invalid type"),
        ("/custom_fields/capstan_port", json!(80_800), "a port is from 1 to 65535"),
        (
            "/custom_fields/capstan_port",
            json!([1]),
            "the custom field capstan_port must be one text",
        ),
        ("/custom_fields/capstan_root", json!("srv"), "the root `srv` is no absolute path"),
        ("/custom_fields/capstan_application", json!("app"), "two applications, app and web"),
        (
            "/custom_fields/capstan_scale_out",
            json!("auto"),
            "device 1, group web-prod: the custom field capstan_scale_out is `auto`; it must be manual or automatic",
        ),
        (
            "/custom_fields/capstan_scale_out",
            json!(["automatic"]),
            "the custom field capstan_scale_out is `[\"automatic\"]`; it must be manual or automatic",
        ),
        (
            "/custom_fields/capstan_on_lb_failure",
            json!(true),
            "the custom field capstan_on_lb_failure is `true`; it must be brake or bypass",
        ),
        (
            "/custom_fields/capstan_may_go_dark",
            json!("yes"),
            "the custom field capstan_may_go_dark is `yes`; it must be true or false",
        ),
        (
            "/custom_fields/capstan_may_go_dark",
            json!(true),
            "two values in the custom field capstan_may_go_dark, false and true",
        ),
    ]
}

#[tokio::test]
async fn a_broken_device_is_told_and_its_group_is_left_out_until_it_is_good() {
    for (pointer, value, expected) in broken() {
        let server = Server::with(V2, Mapping { tag: String::new(), ..mapping() }).await;
        let good = vec![device(1, "web-1", "web-prod"), device(2, "web-2", "web-prod")];
        let mut mail = machine(3, "mail-1", "mail");
        mail["custom_fields"]["capstan_application"] = json!("mail");
        server.netbox().devices.clone_from(&good);
        server.netbox().machines = vec![mail];
        let before = server.groups().await;
        let mut bad = good.clone();
        *bad[0].pointer_mut(pointer).expect("it is there") = value;
        server.netbox().devices = bad;
        assert_eq!(server.groups().await, before[..1], "{expected}");
        let faults = server.cmdb.faults();
        let says = |fault: &String| fault.contains(expected) && fault.contains("/netbox, ");
        assert!(faults.iter().any(says), "{expected}: {faults:?}");
        let refused = server.cmdb.group("web-prod").await;
        assert!(matches!(refused, Err(DriverError::Refused(_))), "{expected}: {refused:?}");
        server.netbox().devices = good;
        assert_eq!(server.groups().await, before);
        assert_eq!(server.cmdb.group("web-prod").await, Ok(Some(before[1].clone())));
        assert_eq!(server.cmdb.faults(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_is_tagged_and_belongs_nowhere_is_told() {
    let server = Server::start().await;
    let mut lost = device(2, "web-2", "web-prod");
    lost["custom_fields"]["capstan_group"] = Value::Null;
    server.netbox().devices = vec![device(1, "web-1", "web-prod"), lost];
    assert_eq!(server.groups().await[0].servers.len(), 1);
    let faults = server.cmdb.faults();
    assert!(
        faults[0].ends_with("device 2: the custom field capstan_group is not set (it is left out)"),
        "{faults:?}"
    );
    // NetBox could not be asked for the group by its name.
    server.netbox().devices[1]["custom_fields"]["capstan_group"] = nested(1, "web-prod");
    assert_eq!(server.groups().await[0].servers.len(), 1);
    let faults = server.cmdb.faults();
    assert!(faults[0].contains("capstan_group must be a text or a choice"), "{faults:?}");
}

#[tokio::test]
async fn a_fault_is_told_and_takes_nothing_away() {
    for (status, body, expected) in [
        (500, "", "500 Internal Server Error"),
        (404, "", "404 Not Found"),
        (200, "<html>It works!</html>", "the answer is no list of NetBox"),
        (200, "{\"count\": 1, \"next\": null}", "the answer is no list of NetBox"),
        (200, "{\"count\": 1, \"next\": null, \"results\": [{}]}", "without a number as id"),
        (200, "{\"count\": 9, \"next\": null, \"results\": []}", "the list changed"),
        (200, "{\"count\": 9, \"next\": \"?\", \"results\": []}", "the next page is `?`"),
    ] {
        let server = Server::start().await;
        server.netbox().devices = vec![device(1, "web-1", "web-prod")];
        let before = server.groups().await;
        server.netbox().fault = Some((status, body));
        let error = server.cmdb.groups().await.expect_err("it is broken").to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        let faults = server.cmdb.faults();
        assert_eq!(faults, [format!("{error} (nothing of it is used)")]);
        assert!(server.cmdb.group("web-prod").await.is_err());
        server.netbox().fault = None;
        assert_eq!(server.groups().await, before);
        assert_eq!(server.cmdb.faults(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn changes_are_told() {
    let server = Server::start().await;
    server.netbox().devices = vec![device(1, "web-1", "web-prod")];
    server.groups().await;
    let told = async |within: u64| {
        let told = tokio::time::timeout(Duration::from_millis(within), server.cmdb.changed()).await;
        told.is_ok()
    };
    assert!(!told(300).await, "nothing changed");
    let mut newer = device(1, "web-1", "web-prod");
    newer["last_updated"] = json!("2999-01-01T00:00:00.000000Z");
    server.netbox().devices = vec![newer];
    assert!(told(10_000).await, "the change was not told");
}
