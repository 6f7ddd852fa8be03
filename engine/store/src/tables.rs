//! The tables that the hot path writes to, with their columns in the order of `rows`.

use crate::bulk::Table;

pub(crate) const SERVERS: Table<12> = Table {
    name: "servers",
    columns: [
        "id",
        "group_id",
        "external_id",
        "hostname",
        "instance",
        "ip_address",
        "port",
        "root",
        "idc",
        "pool",
        "is_bastion",
        "retired",
    ],
    key: &["id"],
    fixed: &["group_id"],
    known: false,
};

pub(crate) const SERVER_STATES: Table<16> = Table {
    name: "server_states",
    columns: [
        "server_id",
        "group_id",
        "pulled_out",
        "service",
        "out_because",
        "observed_at",
        "dead_since",
        "drained",
        "drained_again",
        "markup_owed",
        "running_package",
        "running_version",
        "running_proven_at",
        "order_key",
        "fence",
        "rev",
    ],
    key: &["server_id"],
    fixed: &["group_id"],
    known: true,
};

pub(crate) const DEPLOYMENTS: Table<31> = Table {
    name: "deployments",
    columns: [
        "id",
        "group_id",
        "running_group",
        "package_id",
        "version",
        "sha256",
        "config",
        "flavor",
        "status",
        "holds",
        "failed_seen",
        "total",
        "frozen",
        "scripts",
        "parent",
        "origin",
        "restores",
        "baked",
        "superseded_by",
        "created_by",
        "ignore_verify_reason",
        "seed",
        "plan_hash",
        "seq",
        "created_at",
        "started_at",
        "ended_at",
        "status_since",
        "stale",
        "ran_without",
        "rev",
    ],
    key: &["id"],
    fixed: &[],
    known: false,
};

pub(crate) const BATCHES: Table<7> = Table {
    name: "batches",
    columns: ["deployment_id", "idx", "is_bastion", "status", "wait_until", "ended_at", "rev"],
    key: &["deployment_id", "idx"],
    fixed: &[],
    known: true,
};

pub(crate) const TARGETS: Table<27> = Table {
    name: "targets",
    columns: [
        "id",
        "deployment_id",
        "batch",
        "place",
        "server_id",
        "hostname",
        "instance",
        "ip_address",
        "status",
        "status_since",
        "attempt",
        "orders",
        "tries",
        "order_key",
        "order_digest",
        "deadline_at",
        "unknown_since",
        "checked",
        "verified_at",
        "unverified",
        "skipped",
        "leaving",
        "took",
        "bypassed",
        "cause",
        "message",
        "rev",
    ],
    key: &["id"],
    fixed: &["deployment_id", "place", "server_id", "hostname", "instance", "ip_address"],
    known: true,
};

pub(crate) const EVENTS: Table<5> = Table {
    name: "events",
    columns: ["stream", "seq", "at", "kind", "body"],
    key: &["stream", "seq"],
    fixed: &[],
    known: false,
};

pub(crate) const CHANGED_ROWS: Table<5> = Table {
    name: "changed_rows",
    columns: ["group_id", "rev", "deployments", "servers", "targets"],
    key: &["group_id", "rev"],
    fixed: &[],
    known: false,
};

pub(crate) const EFFECTS: Table<7> = Table {
    name: "effects",
    columns: ["kind", "subject", "group_id", "deployment_id", "due_at", "owner", "claims"],
    key: &["kind", "subject"],
    fixed: &[],
    known: false,
};
