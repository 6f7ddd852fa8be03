//! Every page, with one text wherever a text from outside may stand.

use capstan_core::action::Action;
use capstan_core::dependency::{BreakerState, DependencyKind};
use capstan_core::event::Event;
use capstan_core::plan::Plan;
use capstan_core::view::{
    AuditView, CutOff, DependencyView, DeploymentView, GroupView, LogPart, PackageView, Page,
    ServerView, TargetView,
};
use capstan_portal as portal;
use capstan_portal::form::{FieldError, GroupsQuery, ReleaseForm, TargetsQuery};
use capstan_portal::{
    Chrome, DeploymentPage, ErrorPage, GroupPage, GroupsPage, Notice, PreviewPage, RollbackOffer,
    TargetPage, TargetsPage, Tone,
};

use crate::samples;

/// Every page; `text` stands wherever a text from outside may stand.
pub(crate) fn pages(text: &str) -> Vec<(&'static str, String)> {
    let chrome = Chrome {
        csrf: text,
        user: text,
        now: samples::now(),
        notice: Some(Notice { tone: Tone::Bad, text }),
    };
    let (view, targets) = told(text);
    let events = said(&targets, text);
    let page = DeploymentPage { deployment: &view, targets: &targets, events: &events };
    let list = Page { items: targets.clone(), next_cursor: Some(text.to_owned()) };
    let query = TargetsQuery { status: text.into(), batch: text.into(), ..Default::default() };
    let (log, audit) = (written(text), asked(text));
    let error = ErrorPage {
        status: 409,
        title: text,
        detail: text,
        allowed: Some(&[Action::Bake]),
        back: Some((text, "/")),
    };
    let mut pages = vec![
        ("sign_in", portal::sign_in(text, Some(text))),
        ("error", portal::error(Some(&chrome), &error)),
        ("error, signed out", portal::error(None, &error)),
        ("deployment", portal::deployment(&chrome, &page)),
        ("deployment_live", portal::deployment_live(&chrome, &page)),
        (
            "targets",
            portal::targets(
                &chrome,
                &TargetsPage { deployment: &view, targets: &list, query: &query },
            ),
        ),
        (
            "target",
            portal::target(
                &chrome,
                &TargetPage { deployment: &view, target: &targets[6], log: &log },
            ),
        ),
        ("audit", portal::audit(&chrome, &view, &audit)),
        ("dependencies", portal::dependencies(&chrome, &dependencies(text))),
    ];
    pages.extend(group_pages(&chrome, text));
    pages.into_iter().map(|(name, page)| (name, page.into_string())).collect()
}

fn said(targets: &[TargetView], text: &str) -> Vec<Event> {
    let mut events = samples::events(targets);
    for event in &mut events {
        text.clone_into(&mut event.actor);
        event.data.message = Some(text.to_owned());
        event.data.from = Some(text.to_owned());
        event.data.to = Some(text.to_owned());
        event.data.version = Some(text.to_owned());
    }
    events
}

fn written(text: &str) -> Vec<LogPart> {
    let mut log = samples::log();
    for part in &mut log {
        text.clone_into(&mut part.text);
        text.clone_into(&mut part.stage);
        text.clone_into(&mut part.key);
    }
    log
}

fn asked(text: &str) -> Page<AuditView> {
    let mut audit = samples::audit();
    for one in &mut audit.items {
        for field in [&mut one.actor, &mut one.action, &mut one.subject, &mut one.answer] {
            text.clone_into(field);
        }
        text.clone_into(&mut one.detail);
    }
    audit
}

fn group_pages(chrome: &Chrome<'_>, text: &str) -> Vec<(&'static str, maud::Markup)> {
    let groups = fleet(text);
    let packages = built(text);
    let mut versions = samples::versions();
    versions[0].version = Some(text.to_owned());
    let mut briefs = samples::briefs();
    text.clone_into(&mut briefs.items[0].package.version);
    text.clone_into(&mut briefs.items[0].created_by);
    let plan = planned(text);
    let form = ReleaseForm {
        package: packages[0].id.to_string(),
        batch_pattern: text.to_owned(),
        ignore_verify: "true".to_owned(),
        ignore_verify_reason: text.to_owned(),
        ..ReleaseForm::default()
    };
    let errors = [FieldError::new("batch_pattern", text), FieldError::new("other", text)];
    let query = GroupsQuery { application: text.to_owned(), ..GroupsQuery::default() };
    let group = &groups.items[0];
    let page = GroupPage {
        group,
        servers: &machines(text),
        versions: &versions,
        deployments: &briefs,
        packages: &packages,
        form: &form,
        errors: &errors,
        rollback: RollbackOffer {
            version: Some(text),
            choices: &briefs.items,
            refused_because: None,
        },
    };
    let planned =
        PreviewPage { group, form: &form, packages: &packages, plan: Some(&plan), errors: &[] };
    let refused = PreviewPage { plan: None, errors: &errors, ..planned };
    vec![
        ("groups", portal::groups(chrome, &GroupsPage { groups: &groups, query: &query })),
        ("group", portal::group(chrome, &page)),
        ("preview", portal::preview(chrome, &planned)),
        ("preview, refused", portal::preview(chrome, &refused)),
    ]
}

fn fleet(text: &str) -> Page<GroupView> {
    let mut groups = samples::groups();
    for group in &mut groups.items {
        for field in [
            &mut group.name,
            &mut group.external_id,
            &mut group.idc,
            &mut group.site,
            &mut group.doc_base,
            &mut group.health_check_url,
            &mut group.load_balancer,
            &mut group.application.name,
            &mut group.application.owner,
        ] {
            text.clone_into(field);
        }
        group.version = Some(text.to_owned());
        group.refresh_held = Some(text.to_owned());
        group.running_status = Some(text.to_owned());
    }
    groups
}

fn machines(text: &str) -> Page<ServerView> {
    let mut servers = samples::servers();
    for server in &mut servers.items {
        text.clone_into(&mut server.hostname);
        text.clone_into(&mut server.pool);
        server.version = Some(text.to_owned());
        if let Some(pulled) = &mut server.pulled_out {
            text.clone_into(&mut pulled.reason);
        }
    }
    servers
}

fn built(text: &str) -> Vec<PackageView> {
    let mut packages = samples::packages();
    for package in &mut packages {
        text.clone_into(&mut package.version);
        if let Some(bad) = &mut package.bad {
            text.clone_into(&mut bad.reason);
        }
    }
    packages
}

fn planned(text: &str) -> Plan {
    let mut plan = samples::plan();
    text.clone_into(&mut plan.notes[0]);
    text.clone_into(&mut plan.batches[1].servers[0].hostname);
    text.clone_into(&mut plan.out[0].why);
    text.clone_into(&mut plan.seed);
    plan
}

/// The braked deployment with `text` wherever a text from outside may stand.
fn told(text: &str) -> (DeploymentView, Vec<TargetView>) {
    let (mut view, mut targets) = samples::braked();
    for field in [
        &mut view.group_name,
        &mut view.application,
        &mut view.package.version,
        &mut view.created_by,
        &mut view.seed,
        &mut view.shown_status,
    ] {
        text.clone_into(field);
    }
    for hold in &mut view.holds {
        text.clone_into(&mut hold.detail);
        text.clone_into(&mut hold.by);
        text.clone_into(&mut hold.clears);
    }
    for wait in &mut view.waiting_for {
        text.clone_into(&mut wait.text);
        text.clone_into(&mut wait.on);
        text.clone_into(&mut wait.who);
    }
    for state in &mut view.actions {
        state.refused_because = state.refused_because.as_ref().map(|_| text.to_owned());
    }
    for target in &mut targets {
        text.clone_into(&mut target.hostname);
        text.clone_into(&mut target.ip_address);
        target.message = Some(text.to_owned());
    }
    (view, targets)
}

/// One that is usable, one that is broken, and one that is cut off.
fn dependencies(text: &str) -> Vec<DependencyView> {
    let cut = CutOff {
        by: text.to_owned(),
        reason: text.to_owned(),
        since: samples::now(),
        expires_at: Some(samples::now()),
    };
    let one = |name: &str, kind, state, cut_off| DependencyView {
        name: name.to_owned(),
        kind,
        state,
        since: samples::now(),
        last_error: Some(text.to_owned()),
        cut_off,
        groups: 3,
    };
    vec![
        one("cmdb", DependencyKind::Cmdb, BreakerState::Closed, None),
        one("load_balancer.edge", DependencyKind::LoadBalancer, BreakerState::Open, None),
        one("executor.salt", DependencyKind::Executor, BreakerState::HalfOpen, Some(cut)),
    ]
}
