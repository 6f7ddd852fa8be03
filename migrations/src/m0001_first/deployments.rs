//! Deployments with their batches and targets, and the scripts that their hosts run.

use sea_orm_migration::prelude::{Expr, Table, TableCreateStatement};

use sea_orm_migration::sea_orm::DbBackend;

use super::Schema;
use crate::columns::{
    big, big_null, by_key, flag, id, id_null, index, key, name, name_null, number, one_of, refers,
    text, text_null, unique, word, word_null,
};

pub(super) fn schema(backend: DbBackend) -> Schema {
    (
        vec![deployments(), batches(), by_key(targets(), backend), scripts()],
        vec![
            unique("deployments", &["running_group"]),
            // Newest first, of a group or of all: ids of version 7 are ordered by time.
            index("deployments", &["group_id", "id"]),
            index("deployments", &["group_id", "started_at"]),
            index("deployments", &["status", "id"]),
            unique("targets", &["deployment_id", "server_id"]),
            unique("targets", &["deployment_id", "place"]),
        ],
    )
}

/// `deployments`: one release of one package to one group.
///
/// `running_group` is the group exactly while the status is neither PENDING nor final, and unique:
/// that is S6. `config`, `holds`, `frozen`, `scripts` and `ran_without` are
/// JSON of the records of those names.
fn deployments() -> TableCreateStatement {
    Table::create()
        .table("deployments")
        .col(id("id").primary_key())
        .col(id("group_id"))
        .col(id_null("running_group"))
        .col(id("package_id"))
        .col(name("version"))
        .col(name("sha256"))
        .col(text("config"))
        .col(word("flavor"))
        .col(word("status"))
        .col(text("holds"))
        .col(number("failed_seen"))
        .col(number("total"))
        .col(text("frozen"))
        .col(text("scripts"))
        .col(id_null("parent"))
        .col(id_null("origin"))
        .col(id_null("restores"))
        .col(flag("baked"))
        .col(id_null("superseded_by"))
        .col(name("created_by"))
        .col(text_null("ignore_verify_reason"))
        .col(text("seed"))
        .col(name("plan_hash"))
        .col(big("seq"))
        .col(big("created_at"))
        .col(big_null("started_at"))
        .col(big_null("ended_at"))
        .col(big("status_since"))
        .col(flag("stale"))
        .col(text("ran_without"))
        .col(big("rev"))
        .check(one_of("flavor", &["rollout", "rollback", "scaleout", "adopted"]))
        .check(Expr::cust(
            "(running_group IS NULL AND status IN ('PENDING', 'SUCCESS', 'FAILURE', 'REVOKED')) \
             OR (running_group IS NOT NULL AND running_group = group_id AND status IN ('SMOKING', \
             'SMOKE_SUCCESS', 'SMOKE_FAILURE', 'BAKING', 'BAKE_SUCCESS', 'BAKE_FAILURE', \
             'ROLLING_OUT', 'ROLLOUT_FAILURE'))",
        ))
        .foreign_key(&mut refers("deployments", "group_id", "groups"))
        .foreign_key(&mut refers("deployments", "package_id", "packages"))
        .take()
}

/// `batches`: targets that go together; `idx` is the place from 1.
fn batches() -> TableCreateStatement {
    Table::create()
        .table("batches")
        .col(id("deployment_id"))
        .col(number("idx"))
        .col(flag("is_bastion"))
        .col(word("status"))
        .col(big_null("wait_until"))
        .col(big_null("ended_at"))
        .col(big("rev"))
        .primary_key(&mut key(&["deployment_id", "idx"]))
        .check(one_of(
            "status",
            &["PENDING", "WAITING", "DEPLOYING", "SUCCESS", "FAILURE", "REVOKED"],
        ))
        .foreign_key(&mut refers("batches", "deployment_id", "deployments"))
        .take()
}

/// `targets`: one server in one deployment. Host name, instance and address are those of the plan.
fn targets() -> TableCreateStatement {
    Table::create()
        .table("targets")
        .col(id("id").primary_key())
        .col(id("deployment_id"))
        .col(number("batch"))
        .col(number("place"))
        .col(id("server_id"))
        .col(name("hostname"))
        .col(name("instance"))
        .col(name("ip_address"))
        .col(word("status"))
        .col(big("status_since"))
        .col(number("attempt"))
        .col(number("orders"))
        .col(number("tries"))
        .col(id_null("order_key"))
        .col(name_null("order_digest"))
        .col(big_null("deadline_at"))
        .col(big_null("unknown_since"))
        .col(flag("checked"))
        .col(big_null("verified_at"))
        .col(flag("unverified"))
        .col(flag("skipped"))
        .col(flag("leaving"))
        .col(flag("took"))
        .col(flag("bypassed"))
        .col(word_null("cause"))
        .col(text_null("message"))
        .col(big("rev"))
        .check(one_of("status", TARGET_STATUSES))
        .foreign_key(&mut refers("targets", "deployment_id", "deployments"))
        .foreign_key(&mut refers("targets", "server_id", "servers"))
        .take()
}

/// Written out, not taken from the code: a migration never changes once it is released.
const TARGET_STATUSES: &[&str] = &[
    "PENDING",
    "CHECK_RUNNING",
    "MARKDOWN_RUNNING",
    "MARKDOWN_SUCCESS",
    "MARKDOWN_FAILURE",
    "DOWNLOAD_RUNNING",
    "DOWNLOAD_SUCCESS",
    "DOWNLOAD_FAILURE",
    "INSTALL_RUNNING",
    "INSTALL_SUCCESS",
    "INSTALL_FAILURE",
    "VERIFY_RUNNING",
    "VERIFY_SUCCESS",
    "VERIFY_FAILURE",
    "MARKUP_RUNNING",
    "MARKUP_FAILURE",
    "SUCCESS",
    "SET_ASIDE",
    "REVOKED",
];

/// `scripts`: bodies of host scripts by digest, so that a deployment runs what it was created with.
fn scripts() -> TableCreateStatement {
    Table::create().table("scripts").col(name("sha256").primary_key()).col(text("body")).take()
}
