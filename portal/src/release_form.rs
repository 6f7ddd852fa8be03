//! The fields of the form that starts a release.

use capstan_core::record::{BastionRule, Flavor};
use capstan_core::view::{GroupView, PackageView};
use maud::{Markup, html};

use crate::form::{FieldError, ReleaseForm};

/// Names of the fields in the folded part.
const ADVANCED: [&str; 7] = [
    "max_failure",
    "batch_wait_seconds",
    "tail_wait_seconds",
    "startup_timeout_seconds",
    "ignore_verify",
    "ignore_verify_reason",
    "seed",
];
/// Names of the fields in the open part.
const BASIC: [&str; 5] = ["package", "flavor", "max_unavailable", "batch_pattern", "mode"];

/// One field with a text.
struct Field<'a> {
    name: &'static str,
    label: &'static str,
    unit: &'static str,
    hint: &'static str,
    value: &'a str,
    /// What holds when it is left empty.
    default: &'a str,
    kind: Kind,
}

enum Kind {
    Text,
    Number { least: u32, most: u32 },
}

pub(crate) fn fields(
    form: &ReleaseForm,
    errors: &[FieldError],
    packages: &[PackageView],
    group: &GroupView,
) -> Markup {
    let known = |name: &str| BASIC.contains(&name) || ADVANCED.contains(&name);
    let advanced_used = errors.iter().any(|error| ADVANCED.contains(&error.field.as_str()))
        || [
            &form.max_failure,
            &form.batch_wait_seconds,
            &form.tail_wait_seconds,
            &form.startup_timeout_seconds,
            &form.ignore_verify,
            &form.ignore_verify_reason,
        ]
        .iter()
        .any(|value| !value.is_empty());
    html! {
        @if !errors.is_empty() {
            div.banner.bad role="alert" {
                p { strong { "This cannot be planned as it stands." } }
                @for error in errors.iter().filter(|error| !known(&error.field)) {
                    p { (error.text) }
                }
                @if errors.iter().any(|error| known(&error.field)) {
                    p { "See the marked fields." }
                }
            }
        }
        div.fields {
            (package(form, errors, packages))
            (flavor(form, errors, group))
            @for field in basic(form, group) { (text(&field, errors)) }
            (mode(form, errors))
        }
        details.more id="more" open[advanced_used] {
            summary { "More settings" }
            div.fields {
                @for field in advanced(form) { (text(&field, errors)) }
            }
            (ignore_verify(form, errors))
        }
    }
}

fn basic<'a>(form: &'a ReleaseForm, group: &GroupView) -> [Field<'a>; 2] {
    [
        Field {
            name: "max_unavailable",
            label: "Max unavailable",
            unit: "%",
            hint: "Share of the group that may be out of service at once.",
            value: &form.max_unavailable,
            default: "25",
            kind: Kind::Number { least: 1, most: if group.may_go_dark { 100 } else { 50 } },
        },
        Field {
            name: "batch_pattern",
            label: "Batch pattern",
            unit: "",
            hint: "10% for equal batches, or a sum of 100 such as 5%+20%+25%+25%+25%.",
            value: &form.batch_pattern,
            default: "as large as allowed",
            kind: Kind::Text,
        },
    ]
}

fn advanced(form: &ReleaseForm) -> [Field<'_>; 4] {
    [
        Field {
            name: "max_failure",
            label: "Max failure",
            unit: "%",
            hint: "Share of the group whose failure brakes. 0: the first failure does.",
            value: &form.max_failure,
            default: "same as max unavailable",
            kind: Kind::Number { least: 0, most: 100 },
        },
        Field {
            name: "batch_wait_seconds",
            label: "Batch wait",
            unit: "s",
            hint: "Before the second normal batch.",
            value: &form.batch_wait_seconds,
            default: "0",
            kind: Kind::Number { least: 0, most: 1800 },
        },
        Field {
            name: "tail_wait_seconds",
            label: "Tail wait",
            unit: "s",
            hint: "Before the third and later normal batches.",
            value: &form.tail_wait_seconds,
            default: "same as batch wait",
            kind: Kind::Number { least: 0, most: 1800 },
        },
        Field {
            name: "startup_timeout_seconds",
            label: "Startup timeout",
            unit: "s",
            hint: "How long Verify may take.",
            value: &form.startup_timeout_seconds,
            default: "180",
            kind: Kind::Number { least: 3, most: 10_800 },
        },
    ]
}

/// A field with its label, unit, hint and error.
fn text(field: &Field<'_>, errors: &[FieldError]) -> Markup {
    let wrong = find(errors, field.name).is_some();
    let (least, most) = match field.kind {
        Kind::Text => (None, None),
        Kind::Number { least, most } => (Some(least), Some(most)),
    };
    html! {
        div.field {
            label for=(field.name) {
                (field.label) @if !field.unit.is_empty() { span.unit { " " (field.unit) } }
            }
            input id=(field.name) name=(field.name) value=(field.value) placeholder=(field.default)
                type=(if least.is_some() { "number" } else { "text" }) min=[least] max=[most]
                autocomplete="off" spellcheck="false" aria-invalid=[wrong.then_some("true")]
                aria-describedby={ (field.name) "-hint" };
            div id={ (field.name) "-hint" } {
                (wrong_text(errors, field.name))
                p.hint { (field.hint) }
            }
        }
    }
}

fn package(form: &ReleaseForm, errors: &[FieldError], packages: &[PackageView]) -> Markup {
    html! {
        div.field {
            label for="package" { "Package" }
            select id="package" name="package" required aria-describedby="package-hint"
                aria-invalid=[find(errors, "package").map(|_| "true")] {
                option value="" { "Choose a version" }
                @for one in packages {
                    @let id = one.id.to_string();
                    option value=(id) selected[form.package == id] disabled[one.bad.is_some()] {
                        (one.version)
                        @if let Some(bad) = &one.bad { " (bad: " (bad.reason) ")" }
                    }
                }
            }
            div id="package-hint" {
                (wrong_text(errors, "package"))
                @if packages.is_empty() {
                    p.hint {
                        "No package is registered for this application yet: "
                        code { "capstan package upload" } " brings one."
                    }
                } @else {
                    p.hint { "An exact version; it never changes." }
                }
            }
        }
    }
}

fn flavor(form: &ReleaseForm, errors: &[FieldError], group: &GroupView) -> Markup {
    let choice = |flavor: Flavor, text: &str| {
        let chosen = if form.flavor.is_empty() {
            flavor == Flavor::Rollout
        } else {
            form.flavor == flavor.word()
        };
        html! { option value=(flavor.word()) selected[chosen] { (text) } }
    };
    let rollout = match group.application.bastion {
        BastionRule::One => "rollout: bastion first, then all",
        BastionRule::None => "rollout: all servers",
    };
    html! {
        div.field {
            label for="flavor" { "Flavor" }
            select id="flavor" name="flavor" aria-describedby="flavor-hint" {
                (choice(Flavor::Rollout, rollout))
                (choice(Flavor::Scaleout, "scaleout: the group's version"))
            }
            div id="flavor-hint" {
                (wrong_text(errors, "flavor"))
                p.hint { "A scaleout goes only to servers that lack the group's version." }
            }
        }
    }
}

fn mode(form: &ReleaseForm, errors: &[FieldError]) -> Markup {
    html! {
        div.field {
            label for="mode" { "Mode" }
            select id="mode" name="mode" aria-describedby="mode-hint" {
                option value="auto" selected[form.mode != "manual"] { "auto: each batch follows by itself" }
                option value="manual" selected[form.mode == "manual"] { "manual: each batch waits for a click" }
            }
            div id="mode-hint" { (wrong_text(errors, "mode")) }
        }
    }
}

fn ignore_verify(form: &ReleaseForm, errors: &[FieldError]) -> Markup {
    let name = "ignore_verify_reason";
    html! {
        fieldset {
            legend { "Ignore verify" }
            p.hint {
                "Forgives a failed health answer, and nothing else: not the wrong version, not a \
                 process that is gone."
            }
            label.check {
                input type="checkbox" id="ignore_verify" name="ignore_verify" value="true"
                    checked[form.ignore_verify == "true"];
                "Release although health checks fail"
            }
            (wrong_text(errors, "ignore_verify"))
            div.field {
                label for=(name) { "Reason" }
                input id=(name) name=(name) value=(form.ignore_verify_reason) autocomplete="off"
                    maxlength="200" aria-invalid=[find(errors, name).map(|_| "true")]
                    aria-describedby="ignore_verify_reason-hint";
                div id="ignore_verify_reason-hint" { (wrong_text(errors, name)) }
            }
        }
    }
}

fn find<'a>(errors: &'a [FieldError], name: &str) -> Option<&'a FieldError> {
    errors.iter().find(|error| error.field == name)
}

fn wrong_text(errors: &[FieldError], name: &str) -> Markup {
    html! {
        @for error in errors.iter().filter(|error| error.field == name) {
            p.wrong { (error.text) }
        }
    }
}
