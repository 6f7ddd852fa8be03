//! Settings about what is outside: the broker, webhooks, the CMDB, a Redis.

use super::*;

#[test]
fn the_broker_and_what_webhooks_may_call_are_read() {
    let text = "[broker]\nurl = \"amqps://ann:hunter2@mq/prod\"\ndeclare = false\nbegin = \"first\"\n\
                [webhooks]\nallow = [\"10.0.0.0/8\", \"::1\"]\ntimeout_ms = 100\n\
                disable_after_minutes = 5\n";
    let config = load(text, &[]).expect("it is good").config;
    let url = config.broker.url.as_ref().map(Secret::expose);
    assert_eq!(url, Some("amqps://ann:hunter2@mq/prod"));
    assert_eq!((config.broker.declare, config.broker.begin), (false, BrokerBegin::First));
    assert_eq!(config.webhooks.allow.len(), 2);
    assert_eq!(config.webhooks.timeout, Duration::from_millis(100));
    assert_eq!(config.webhooks.disable_after, Duration::from_mins(5));
    for (key, value, problem) in [
        ("CAPSTAN__WEBHOOKS__ALLOW", "10.0.0.0/33", "no network"),
        ("CAPSTAN__BROKER__BEGIN", "later", "no such beginning"),
    ] {
        let faults = faults("", &[(key, value)]);
        assert!(faults.len() == 1 && faults[0].contains(problem), "{faults:?}");
    }
}

#[test]
fn the_cmdb_is_asked_at_its_address_with_its_token() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "hunter2\n").expect("a file");
    let write = |text: &str| std::fs::write(folder.path().join(USUAL_FILE), text).expect("a file");
    write(
        "[cmdb]\ndriver = \"http\"\nurl = \"https://cmdb.example/api\"\ntoken_file = \"token\"\n\
         timeout_ms = 100\npoll_seconds = 5\nhold_above_percent = 100\n",
    );
    let loaded = load_in(folder.path(), &[]).expect("it is good");
    let cmdb = &loaded.config.cmdb;
    assert_eq!(cmdb.driver, CmdbDriver::Http);
    assert_eq!(cmdb.url.as_ref().map(Url::as_str), Some("https://cmdb.example/api"));
    assert_eq!(cmdb.token.expose(), "hunter2");
    assert_eq!((cmdb.timeout, cmdb.poll), (Duration::from_millis(100), Duration::from_secs(5)));
    assert_eq!(cmdb.hold_above, Share::ALL);
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let shown = loaded.effective.iter().find(|it| it.key == "cmdb.token").expect("it is in force");
    assert_eq!(shown.value, "\"***\"");
    std::fs::write(folder.path().join("token"), "hunter2://hunter2 x\n").expect("a file");
    let error = load_in(folder.path(), &[]).expect_err("a fault").to_string();
    assert!(error.contains("cmdb.token_file") && !error.contains("hunter2"), "{error}");

    for (key, value, expected) in [
        ("URL", "", "cmdb.url = \"\": it is needed, since cmdb.driver is \"http\""),
        ("URL", "cmdb.example", "cmdb.url = \"cmdb.example\": it is no URL"),
        ("URL", "ftp://cmdb.example", "it does not begin with http:// or https://"),
        ("URL", "http://cmdb.example/?x", "without ? and #"),
        ("TIMEOUT_MS", "9000", "cmdb.timeout_ms = 9000: it is too large"),
        ("POLL_SECONDS", "0", "cmdb.poll_seconds = 0: it is too small"),
        ("HOLD_ABOVE_PERCENT", "0", "cmdb.hold_above_percent = 0: it is too small"),
        ("HOLD_ABOVE_PERCENT", "101", "cmdb.hold_above_percent = 101: it is too large"),
        ("HOLD_ABOVE_PERCENT", "-1", "cmdb.hold_above_percent = -1: it is below zero"),
        ("HOLD_ABOVE_PERCENT", "50%", "cmdb.hold_above_percent = \"50%\": it cannot be read"),
    ] {
        let name = format!("CAPSTAN__CMDB__{key}");
        let variables = [
            ("CAPSTAN__CMDB__DRIVER", "http"),
            ("CAPSTAN__CMDB__URL", "http://cmdb.example"),
            (name.as_str(), value),
        ];
        let variables = if key == "URL" { &[variables[0], variables[2]][..] } else { &variables };
        let faults = faults("", variables);
        assert!(faults.len() == 1 && faults[0].contains(expected), "{expected}: {faults:?}");
        assert!(faults[0].contains("\n    allowed: "), "{faults:?}");
    }
    let faults = faults("", &[("CAPSTAN__CMDB__URL", "http://ann@cmdb.example")]);
    assert!(faults[0].contains("give cmdb.token"), "{faults:?}");
}

#[test]
fn netbox_is_mapped_by_the_configuration() {
    let netbox = |text: &str| format!("[cmdb]\ndriver = \"netbox\"\nurl = \"http://nb/\"\n{text}");
    let loaded = load(
        &netbox(
            "[cmdb.netbox]\ntag = \"\"\npool_field = \"rack\"\nscale_out_field = \"grows\"\n\
             on_lb_failure_field = \"lb\"\nmay_go_dark_field = \"dark\"\n",
        ),
        &[],
    );
    let cmdb = loaded.expect("it is good").config.cmdb;
    assert_eq!(cmdb.driver, CmdbDriver::Netbox);
    assert_eq!((cmdb.netbox.tag.as_str(), cmdb.netbox.pool_field.as_str()), ("", "rack"));
    assert_eq!((cmdb.netbox.group_field.as_str(), cmdb.netbox.port), ("capstan_group", 8080));
    let Mapping { scale_out_field, on_lb_failure_field, may_go_dark_field, .. } = cmdb.netbox;
    assert_eq!([scale_out_field, on_lb_failure_field, may_go_dark_field], ["grows", "lb", "dark"]);
    for (line, expected) in [
        ("tag = \"a b\"", "cmdb.netbox.tag = \"a b\": \"a b\" is no slug"),
        ("group_field = \"\"", "cmdb.netbox.group_field = \"\": it is needed"),
        (
            "port_field = \"a-b\"",
            "cmdb.netbox.port_field = \"a-b\": it is no name of a custom field",
        ),
        ("scale_out_field = \"a b\"", "cmdb.netbox.scale_out_field = \"a b\": it is no name"),
        ("on_lb_failure_field = 1", "cmdb.netbox.on_lb_failure_field: it is a whole number"),
        ("may_go_dark_field = true", "cmdb.netbox.may_go_dark_field: it is a switch"),
        ("statuses = []", "cmdb.netbox.statuses = []: it is empty"),
        ("port = 70000", "cmdb.netbox.port = 70000: it is too large"),
        ("health_check_url = \"ip\"", "cmdb.netbox.health_check_url = \"ip\": it does not begin"),
        ("doc_base = \"srv\"", "cmdb.netbox.doc_base = \"srv\": \"srv\" is no absolute path"),
        ("groupfield = \"x\"", "did you mean cmdb.netbox.group_field?"),
    ] {
        let faults = faults(&netbox(&format!("[cmdb.netbox]\n{line}\n")), &[]);
        assert!(faults.len() == 1 && faults[0].contains(expected), "{expected}: {faults:?}");
        assert!(faults[0].starts_with("capstan.toml:5: "), "{faults:?}");
        assert!(faults[0].contains("\n    allowed: "), "{faults:?}");
    }
    let faults = faults("", &[("CAPSTAN__CMDB__DRIVER", "netbox")]);
    assert!(faults[0].contains("it is needed, since cmdb.driver is \"netbox\""), "{faults:?}");
}

#[test]
fn a_redis_can_tell_engines_of_due_work() {
    for url in ["redis://cache", "rediss://ann:hunter2@cache:6380/3", "redis://:hunter2@[::1]/"] {
        let loaded = load(&format!("[queue]\nurl = {url:?}\n"), &[]).expect("it is good");
        assert_eq!(loaded.config.queue, Queue::Redis(Secret::new(url)));
        assert!(!format!("{loaded:?}").contains("hunter"), "{loaded:?}");
    }
    for (url, problem) in [
        ("redis://", "it names no host"),
        ("redis:cache", "there is no such queue"),
        ("redis://:hunter2@cache/zero", "the number of a database"),
        ("rediss://:hunter2@cache/0#insecure", "certificates are always checked"),
        ("redis://:hunter2@cache/0?protocol=resp3", "no further settings"),
        ("amqp://:hunter2@cache", "there is no such queue"),
        ("Database", "there is no such queue"),
    ] {
        let error = load(&format!("[queue]\nurl = {url:?}\n"), &[]).expect_err("a fault");
        let text = error.to_string();
        assert!(text.contains(problem) && text.contains("redis://:password@"), "{text}");
        assert!(!text.contains("hunter"), "{text}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("url"), "redis://:hunter2@cache/1\n").expect("a file");
    let text = "[queue]\nurl_file = \"url\"\n";
    std::fs::write(folder.path().join(USUAL_FILE), text).expect("a file");
    let loaded = load_in(folder.path(), &[]).expect("it is good");
    assert_eq!(loaded.config.queue, Queue::Redis(Secret::new("redis://:hunter2@cache/1")));
}
