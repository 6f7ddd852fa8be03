//! The buttons of a deployment: what is allowed, and why the rest is not.

use std::collections::BTreeMap;

use capstan_core::action::Action;
use capstan_core::batch_status::BatchStatus;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::view::DeploymentView;
use maud::{Markup, html};

use crate::frame::{Chrome, csrf, hidden};

pub(super) fn panel(chrome: &Chrome<'_>, view: &DeploymentView) -> Markup {
    let refused = refused(view);
    html! {
        @if !view.waiting_for.is_empty() { h3.unseen { "Actions" } }
        @if view.allowed_actions.is_empty() {
            p.fine { "Nothing can be asked of this deployment now." }
        } @else {
            div.actions {
                @for action in Action::ALL {
                    @if view.allowed_actions.contains(&action) { (live(chrome, view, action)) }
                }
            }
        }
        @if !refused.is_empty() {
            h3.quiet { "Not possible now" }
            ul.refused {
                @for (place, (because, actions)) in refused.iter().enumerate() {
                    li {
                        div.buttons {
                            @for action in actions {
                                button.small type="button" disabled title=(because)
                                    aria-describedby={ "refused-" (place) } { (label(*action)) }
                            }
                        }
                        p.fine id={ "refused-" (place) } { (because) }
                    }
                }
            }
        }
    }
}

/// Refused actions by their reason, both in the order of the buttons.
fn refused(view: &DeploymentView) -> Vec<(&str, Vec<Action>)> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut groups: Vec<(&str, Vec<Action>)> = Vec::new();
    for state in &view.actions {
        let Some(because) = state.refused_because.as_deref() else { continue };
        let place = *places.entry(because).or_insert(groups.len());
        if place == groups.len() {
            groups.push((because, Vec::new()));
        }
        groups[place].1.push(state.action);
    }
    groups
}

fn live(chrome: &Chrome<'_>, view: &DeploymentView, action: Action) -> Markup {
    let id = format!("do-{action}");
    match action {
        Action::Start | Action::Bake | Action::Rollout | Action::Retry | Action::Resume => html! {
            form method="post" action=(href(view, action)) {
                (csrf(chrome))
                @if action == Action::Rollout { (meant_batch(view)) }
                button.primary[is_first(view, action)] id=(id) type="submit"
                    title=(meaning(action)) {
                    (label(action))
                    @if let (Action::Rollout, Some(index)) = (action, next_batch(view)) {
                        " batch " (index)
                    }
                }
            }
        },
        Action::Brake => html! {
            form method="post" action=(href(view, action)) {
                (csrf(chrome))
                button.stop id=(id) type="submit" title=(meaning(action)) { (label(action)) }
            }
        },
        Action::Finish | Action::Revoke | Action::Rollback => html! {
            details.confirm id={ (id) "-confirm" } {
                summary.button.danger { (label(action)) "…" }
                form method="post" action=(href(view, action)) {
                    (csrf(chrome))
                    p { (meaning(action)) }
                    button.danger id=(id) type="submit" { (confirmed(view, action)) }
                }
            }
        },
    }
}

/// Whether it is the first allowed action that carries the release on: one button stands out. A retry
/// does so only where something failed.
fn is_first(view: &DeploymentView, action: Action) -> bool {
    let last = match view.failed {
        0 => [Action::Resume, Action::Retry],
        _ => [Action::Retry, Action::Resume],
    };
    [Action::Start, Action::Bake, Action::Rollout]
        .into_iter()
        .chain(last)
        .find(|action| view.allowed_actions.contains(action))
        == Some(action)
}

fn href(view: &DeploymentView, action: Action) -> String {
    match action {
        Action::Rollback => format!("/groups/{}/rollback", view.group),
        Action::Start
        | Action::Bake
        | Action::Rollout
        | Action::Retry
        | Action::Brake
        | Action::Resume
        | Action::Finish
        | Action::Revoke => format!("/deployments/{}/{action}", view.id),
    }
}

/// The batch that a click on `rollout` means, so that a second click cannot mean the one after it.
fn meant_batch(view: &DeploymentView) -> Markup {
    html! { @if let Some(index) = next_batch(view) { (hidden("batch", &index.to_string())) } }
}

fn next_batch(view: &DeploymentView) -> Option<u32> {
    let first = |status: BatchStatus| {
        view.batches.iter().find(|batch| !batch.is_bastion && batch.status == status)
    };
    first(BatchStatus::Waiting)
        .or_else(|| {
            let baked = view.status == DeploymentStatus::BakeSuccess;
            baked.then(|| first(BatchStatus::Pending)).flatten()
        })
        .map(|batch| batch.index)
}

fn label(action: Action) -> &'static str {
    match action {
        Action::Start => "Start",
        Action::Bake => "Bake",
        Action::Rollout => "Roll out",
        Action::Retry => "Retry",
        Action::Brake => "Brake",
        Action::Resume => "Resume",
        Action::Revoke => "Revoke",
        Action::Finish => "Finish",
        Action::Rollback => "Roll back",
    }
}

fn confirmed(view: &DeploymentView, action: Action) -> String {
    match action {
        Action::Rollback => format!("Roll back {}", view.group_name),
        Action::Revoke | Action::Finish => format!("{} this deployment", label(action)),
        Action::Start
        | Action::Bake
        | Action::Rollout
        | Action::Retry
        | Action::Brake
        | Action::Resume => label(action).to_owned(),
    }
}

fn meaning(action: Action) -> &'static str {
    match action {
        Action::Start => "Starts the first batch.",
        Action::Bake => "Brings the bastions into production traffic.",
        Action::Rollout => "Starts the next batch.",
        Action::Retry => "Runs what failed once more.",
        Action::Brake => {
            "No stage and no batch starts any more; what runs on a host ends by itself."
        }
        Action::Resume => "Goes on where the brake stopped it.",
        Action::Finish => {
            "Ends the deployment as FAILURE. It waits for no host and marks nothing up: servers that \
             are out stay out until a rollback or another release puts them right."
        }
        Action::Revoke => {
            "Ends the deployment at once. It waits for no host and marks nothing up: servers that are \
             out stay out until a rollback or another release puts them right."
        }
        Action::Rollback => {
            "Ends this deployment if it still runs, and brings back the package that the group ran \
             before, on every server that does not serve it: two halves of the group, without a \
             bastion batch."
        }
    }
}
