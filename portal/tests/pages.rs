//! The pages as a browser gets them: nothing of what comes in as text is ever markup, nothing breaks
//! the content security policy, and what people must be told is there.

mod every_page;
mod samples;

use capstan_core::action::Action;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::event::EventType;
use capstan_core::view::DeploymentView;
use capstan_portal as portal;
use capstan_portal::DeploymentPage;

use every_page::pages;

const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

fn deployment(view: &DeploymentView) -> String {
    let targets = samples::targets_of(view);
    let page = DeploymentPage { deployment: view, targets: &targets, events: &[] };
    portal::deployment(&samples::chrome(), &page).into_string()
}

#[test]
fn texts_from_outside_never_become_markup() {
    for (name, html) in pages(HOSTILE) {
        assert!(!html.contains("<script>"), "{name}");
        assert!(!html.contains("<img"), "{name}");
        assert!(!html.contains("\"'>"), "{name}");
        assert!(html.contains("&lt;script&gt;"), "{name} shows none of the texts");
    }
}

#[test]
fn pages_keep_to_the_content_security_policy() {
    for (name, html) in pages("text") {
        let tags: Vec<&str> = html.split('<').skip(1).collect();
        for tag in &tags {
            let tag = tag.split('>').next().unwrap_or_default();
            assert!(!tag.starts_with("style"), "{name}: {tag}");
            assert!(!tag.starts_with("script") || tag.contains("src=\"/assets/"), "{name}: {tag}");
            for attribute in tag.split_ascii_whitespace().skip(1) {
                assert!(!attribute.starts_with("style="), "{name}: {tag}");
                let on = attribute.starts_with("on") && attribute.contains('=');
                assert!(!on, "{name}: {tag}");
            }
        }
        assert!(!html.contains("javascript:"), "{name}");
    }
}

#[test]
fn every_form_that_posts_carries_the_token() {
    for (name, html) in pages("t0ken") {
        for form in html.split("<form").skip(1) {
            let form = form.split("</form>").next().unwrap_or_default();
            let posts = form.contains("method=\"post\"");
            let carries = form.contains("name=\"csrf\" value=\"t0ken\"");
            assert_eq!(posts, carries, "{name}: {form}");
        }
    }
}

#[test]
fn ids_are_unique_and_what_refers_to_them_finds_them() {
    for (name, html) in pages("text") {
        let html = html.replace("log-text", "log"); // The log parts share a made-up key.
        let ids: Vec<&str> = values(&html, " id=\"").filter(|id| *id != "log").collect();
        for id in &ids {
            assert_eq!(ids.iter().filter(|other| other == &id).count(), 1, "{name}: {id}");
        }
        let references = [" for=\"", "aria-labelledby=\"", "aria-describedby=\""];
        for id in references.iter().flat_map(|start| values(&html, start)) {
            for id in id.split(' ') {
                assert!(ids.contains(&id), "{name} has no {id}");
            }
        }
    }
}

fn values<'a>(html: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    html.split(start).skip(1).filter_map(|rest| rest.split('"').next())
}

#[test]
fn a_disabled_button_says_why() {
    let mut view = samples::braked().0;
    for state in &mut view.actions {
        if state.action == Action::Rollback {
            state.refused_because = Some("no older version is known".to_owned());
        }
    }
    view.allowed_actions.retain(|action| *action != Action::Rollback);
    let html = deployment(&view);
    for state in view.actions {
        let Some(because) = state.refused_because else { continue };
        let shown = format!("\">{because}</p>");
        let place = html.find(&shown).unwrap_or_else(|| panic!("{because} is not shown"));
        let id = html[..place].rsplit("id=\"").next().unwrap_or_default();
        assert!(html.contains(&format!("disabled title=\"{because}\" aria-describedby=\"{id}\"")));
    }
    let allowed = format!("action=\"/deployments/{}/retry\"", view.id);
    assert!(html.contains(&allowed));
    assert!(!html.contains("/rollback\""));
}

#[test]
fn a_rollout_names_the_batch_that_the_person_sees() {
    let (view, targets) = samples::huge();
    let page = DeploymentPage { deployment: &view, targets: &targets, events: &[] };
    let html = portal::deployment_live(&samples::chrome(), &page).into_string();
    assert!(html.contains("name=\"batch\" value=\"6\""));
    assert!(html.contains("Roll out batch 6"));
}

#[test]
fn the_button_that_stands_out_goes_on_with_the_release() {
    let stands_out = |failed: u32, action: &str| {
        let (mut view, targets) = samples::braked();
        view.failed = failed;
        let page = DeploymentPage { deployment: &view, targets: &targets, events: &[] };
        let html = portal::deployment_live(&samples::chrome(), &page).into_string();
        html.contains(&format!("<button class=\"primary\" id=\"do-{action}\""))
    };
    assert!(stands_out(3, "retry") && !stands_out(3, "resume"));
    assert!(stands_out(0, "resume") && !stands_out(0, "retry"), "nothing failed");
}

#[test]
fn the_phase_bar_shows_how_far_a_deployment_is() {
    use DeploymentStatus as D;
    let cases = [
        (D::Pending, "todo todo todo todo"),
        (D::Smoking, "current todo todo todo"),
        (D::SmokeSuccess, "done next todo todo"),
        (D::SmokeFailure, "failed todo todo todo"),
        (D::Baking, "done current todo todo"),
        (D::BakeSuccess, "done done next todo"),
        (D::BakeFailure, "done failed todo todo"),
        (D::RollingOut, "done done current todo"),
        (D::RolloutFailure, "done done failed todo"),
        (D::Success, "done done done done"),
        (D::Failure, "done done stopped failed"),
        (D::Revoked, "stopped skipped skipped stopped"),
    ];
    for (status, expected) in cases {
        assert_eq!(phases(&samples::stage(status)).join(" "), expected, "{status}");
    }
    let mut braked = samples::stage(D::SmokeSuccess);
    braked.holds = samples::braked().0.holds;
    assert_eq!(phases(&braked).join(" "), "done braked todo todo");
}

#[test]
fn the_phase_bar_leaves_out_what_the_plan_does_not_have() {
    let mut rollback = samples::stage(DeploymentStatus::RollingOut);
    rollback.batches.remove(0);
    assert_eq!(phases(&rollback).join(" "), "current todo");
    let mut single = samples::stage(DeploymentStatus::Baking);
    single.batches.truncate(1);
    assert_eq!(phases(&single).join(" "), "done current todo");
}

fn phases(view: &DeploymentView) -> Vec<String> {
    let html = deployment(view);
    let bar = html.split("class=\"phases\"").nth(1).and_then(|rest| rest.split("</ol>").next());
    let items = bar.expect("the page has a phase bar").split("<li class=\"").skip(1);
    items.filter_map(|item| item.split('"').next()).map(str::to_owned).collect()
}

#[test]
fn a_large_deployment_shows_only_targets_that_matter() {
    let (view, targets) = samples::huge();
    let page = DeploymentPage { deployment: &view, targets: &targets, events: &[] };
    let html = portal::deployment_live(&samples::chrome(), &page).into_string();
    let matter = targets
        .iter()
        .filter(|target| target.status.is_failure() || target.status.running().is_some())
        .count();
    assert_eq!(html.matches("<li class=\"tile").count(), matter);
    assert!(html.contains("Of 840 targets only those under way"));
    assert!(html.contains("hook capstan/pre-install ended with 3"));
}

#[test]
fn the_live_part_is_in_the_page_and_ends_with_the_deployment() {
    let view = samples::stage(DeploymentStatus::RollingOut);
    let targets = samples::targets_of(&view);
    let page = DeploymentPage { deployment: &view, targets: &targets, events: &[] };
    let chrome = samples::chrome();
    let live = portal::deployment_live(&chrome, &page).into_string();
    assert!(portal::deployment(&chrome, &page).into_string().contains(&live));
    assert!(live.contains(EventType::TargetStatus.word()));
    assert!(!live.contains(" data-over"));
    assert!(deployment(&samples::stage(DeploymentStatus::Revoked)).contains(" data-over"));
}
