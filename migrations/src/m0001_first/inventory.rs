//! Applications, groups and servers: what the CMDB says, and what Capstan knows of each server.

use sea_orm_migration::prelude::{Table, TableCreateStatement};

use sea_orm_migration::sea_orm::DbBackend;

use super::Schema;
use crate::columns::{
    big, big_null, by_key, flag, id, id_null, index, name, name_null, number, one_of, refers, text,
    text_null, unique, word, word_null,
};

pub(super) fn schema(backend: DbBackend) -> Schema {
    (
        vec![
            applications(),
            groups(),
            servers(),
            by_key(server_states(), backend),
            dependencies(),
            refreshes(),
        ],
        vec![
            unique("applications", &["external_id"]),
            unique("applications", &["name"]),
            unique("groups", &["external_id"]),
            index("groups", &["application_id"]),
            index("groups", &["name", "id"]),
            unique("servers", &["group_id", "hostname", "instance"]),
            index("server_states", &["group_id"]),
        ],
    )
}

/// `applications`: what is released. `external_id` is absent until the CMDB names it.
fn applications() -> TableCreateStatement {
    Table::create()
        .table("applications")
        .col(id("id").primary_key())
        .col(name_null("external_id"))
        .col(name("name"))
        .col(name("owner"))
        .col(name("environment"))
        .col(name("kind"))
        .col(word("bastion"))
        .check(one_of("bastion", &["one", "none"]))
        .take()
}

/// `groups`: the smallest unit of a release, and the row that serialises everything about it.
///
/// `version` is raised by every transaction that changes the group, its servers or its deployments;
/// whoever does not hit the version that it has read has lost and reads again. `seq` numbers the
/// group's own events. `binding` is what a deployment freezes; `dependencies` are those that are not
/// usable. Both are JSON.
fn groups() -> TableCreateStatement {
    Table::create()
        .table("groups")
        .col(id("id").primary_key())
        .col(name("external_id"))
        .col(id("application_id"))
        .col(name("name"))
        .col(text("binding"))
        .col(number("port"))
        .col(name("idc"))
        .col(big("cmdb_revision"))
        .col(big("synced_at"))
        .col(big_null("observed_at"))
        .col(text_null("refresh_held"))
        .col(big("version"))
        .col(big("seq"))
        .col(text_null("dependencies"))
        .foreign_key(&mut refers("groups", "application_id", "applications"))
        .take()
}

/// `dependencies`: outside systems, by the name of their section in the configuration. `state` is what
/// the circuit breaker does; with `cut_off_at` a person cut the dependency off.
fn dependencies() -> TableCreateStatement {
    Table::create()
        .table("dependencies")
        .col(name("name").primary_key())
        .col(word("kind"))
        .col(word("state"))
        .col(word_null("found_by"))
        .col(big("since"))
        .col(text_null("last_error"))
        .col(big_null("cut_off_at"))
        .col(name_null("cut_off_by"))
        .col(text_null("cut_off_reason"))
        .col(big_null("cut_off_until"))
        .check(one_of("kind", &["load_balancer", "executor", "cmdb", "package_store", "queue"]))
        .check(one_of("state", &["closed", "open", "half_open"]))
        .take()
}

/// `refreshes`: who asks the CMDB for a group just now, so that nobody else does. `ended` counts those that
/// told how they ended, and `told` is what the last one told.
fn refreshes() -> TableCreateStatement {
    Table::create()
        .table("refreshes")
        .col(id("group_id").primary_key())
        .col(word_null("holder"))
        .col(big_null("held_until"))
        .col(big("ended"))
        .col(text_null("told"))
        .take()
}

/// `servers`: what the CMDB says of each instance. Rows are retired, never deleted.
fn servers() -> TableCreateStatement {
    Table::create()
        .table("servers")
        .col(id("id").primary_key())
        .col(id("group_id"))
        .col(name("external_id"))
        .col(name("hostname"))
        .col(name("instance"))
        .col(name("ip_address"))
        .col(number("port"))
        .col(text("root"))
        .col(name("idc"))
        .col(name("pool"))
        .col(flag("is_bastion"))
        .col(flag("retired"))
        .foreign_key(&mut refers("servers", "group_id", "groups"))
        .take()
}

/// `server_states`: what Capstan knows of each server, one row per row of `servers`.
///
/// It stands apart because it changes with every stage while `servers` changes with the CMDB.
/// `fence` is the last one given out and only grows (S7). `markup_owed` is JSON (S12).
fn server_states() -> TableCreateStatement {
    Table::create()
        .table("server_states")
        .col(id("server_id").primary_key())
        .col(id("group_id"))
        .col(text_null("pulled_out"))
        .col(word("service"))
        .col(word_null("out_because"))
        .col(big_null("observed_at"))
        .col(big_null("dead_since"))
        .col(flag("drained"))
        .col(flag("drained_again"))
        .col(text_null("markup_owed"))
        .col(id_null("running_package"))
        .col(name_null("running_version"))
        .col(big_null("running_proven_at"))
        .col(id_null("order_key"))
        .col(big("fence"))
        .col(big("rev"))
        .check(one_of("service", &["in", "out", "unknown"]))
        .check(one_of("out_because", &["target", "person", "outside", "late_mark", "dead", "new"]))
        .foreign_key(&mut refers("server_states", "server_id", "servers"))
        .take()
}
