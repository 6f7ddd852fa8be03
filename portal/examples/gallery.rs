//! Writes every page with made-up data into a folder, to be looked at in a browser:
//! `cargo run -p capstan-portal --example gallery -- /tmp/gallery`.

#[path = "../tests/samples/mod.rs"]
mod samples;

use std::path::Path;
use std::{env, fs, io};

use capstan_core::action::Action;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::view::DeploymentView;
use capstan_portal as portal;
use capstan_portal::form::{FieldError, GroupsQuery, ReleaseForm, TargetsQuery};
use capstan_portal::{
    Chrome, DeploymentPage, ErrorPage, GroupPage, GroupsPage, Notice, PreviewPage, RollbackOffer,
    TargetPage, TargetsPage, Tone,
};
use maud::Markup;

fn main() -> io::Result<()> {
    let folder = env::args().nth(1).unwrap_or_else(|| "gallery".to_owned());
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    for asset in portal::assets::ALL {
        let name = asset.path.trim_start_matches("/assets/");
        fs::write(folder.join(name), asset.body)?;
    }
    for (name, page) in pages() {
        let mut html = page.into_string();
        for asset in portal::assets::ALL {
            html = html.replace(&asset.href(), asset.path.trim_start_matches("/assets/"));
        }
        fs::write(folder.join(format!("{name}.html")), html)?;
    }
    Ok(())
}

fn pages() -> Vec<(String, Markup)> {
    let chrome = samples::chrome();
    let mut pages = vec![
        (
            "sign-in".to_owned(),
            portal::sign_in("t", Some("This token is not known, or it was withdrawn.")),
        ),
        ("groups".to_owned(), groups(&chrome)),
        ("error".to_owned(), error(&chrome)),
    ];
    pages.extend(group_pages(&chrome));
    pages.extend(deployment_pages(&chrome));
    for status in DeploymentStatus::ALL {
        let view = samples::stage(status);
        pages
            .push((format!("status-{}", status.word().to_lowercase()), deployment(&chrome, &view)));
    }
    pages
}

fn groups(chrome: &Chrome<'_>) -> Markup {
    let query = GroupsQuery::default();
    portal::groups(chrome, &GroupsPage { groups: &samples::groups(), query: &query })
}

fn error(chrome: &Chrome<'_>) -> Markup {
    portal::error(
        Some(chrome),
        &ErrorPage {
            status: 409,
            title: "Bake is not allowed now",
            detail: "The deployment is ROLLING_OUT: its bastions were baked already. Somebody else may \
                 have been faster than you.",
            allowed: Some(&[Action::Brake, Action::Revoke, Action::Rollback]),
            back: Some(("the deployment", "/deployments/1")),
        },
    )
}

fn group_pages(chrome: &Chrome<'_>) -> Vec<(String, Markup)> {
    let mut group = samples::groups().items.swap_remove(0);
    group.refresh_held = Some("9 of 20 servers would leave the group.".to_owned());
    let packages = samples::packages();
    let form = ReleaseForm {
        package: packages[0].id.to_string(),
        max_unavailable: "60".to_owned(),
        tail_wait_seconds: "soon".to_owned(),
        ..ReleaseForm::default()
    };
    let errors = [
        FieldError::new("max_unavailable", "60 is not allowed: whole percent from 1 to 50"),
        FieldError::new(
            "tail_wait_seconds",
            "“soon” cannot be read: write whole seconds, such as 60",
        ),
        FieldError::new("group", "the group has a running deployment"),
    ];
    let briefs = samples::briefs();
    let with_notice = Chrome {
        notice: Some(Notice {
            tone: Tone::Good,
            text: "shop-sh-06 is pulled out and being drained.",
        }),
        ..*chrome
    };
    let page = portal::group(
        &with_notice,
        &GroupPage {
            group: &group,
            servers: &samples::servers(),
            versions: &samples::versions(),
            deployments: &briefs,
            packages: &packages,
            form: &ReleaseForm::default(),
            errors: &[],
            rollback: RollbackOffer {
                version: Some("2.13.8"),
                choices: &briefs.items[1..3],
                refused_because: None,
            },
        },
    );
    let mut preview = PreviewPage {
        group: &group,
        form: &form,
        packages: &packages,
        plan: Some(&samples::plan()),
        errors: &[],
    };
    let planned = portal::preview(chrome, &preview);
    (preview.plan, preview.errors) = (None, &errors);
    vec![
        ("group".to_owned(), page),
        ("preview".to_owned(), planned),
        ("preview-errors".to_owned(), portal::preview(chrome, &preview)),
    ]
}

fn deployment(chrome: &Chrome<'_>, view: &DeploymentView) -> Markup {
    let targets = samples::targets_of(view);
    portal::deployment(chrome, &DeploymentPage { deployment: view, targets: &targets, events: &[] })
}

fn deployment_pages(chrome: &Chrome<'_>) -> Vec<(String, Markup)> {
    let (view, targets) = samples::braked();
    let events = samples::events(&targets);
    let (many, many_targets) = samples::huge();
    let query = TargetsQuery::default();
    let page =
        capstan_core::view::Page { items: targets.clone(), next_cursor: Some("x".to_owned()) };
    vec![
        (
            "deployment".to_owned(),
            portal::deployment(
                chrome,
                &DeploymentPage { deployment: &view, targets: &targets, events: &events },
            ),
        ),
        (
            "huge".to_owned(),
            portal::deployment(
                chrome,
                &DeploymentPage { deployment: &many, targets: &many_targets, events: &events },
            ),
        ),
        (
            "targets".to_owned(),
            portal::targets(
                chrome,
                &TargetsPage { deployment: &view, targets: &page, query: &query },
            ),
        ),
        (
            "target".to_owned(),
            portal::target(
                chrome,
                &TargetPage { deployment: &view, target: &targets[6], log: &samples::log() },
            ),
        ),
        ("audit".to_owned(), portal::audit(chrome, &view, &samples::audit())),
    ]
}
