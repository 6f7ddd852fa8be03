//! Registers packages and marks them.

use std::sync::Arc;

use axum::http::StatusCode;
use capstan_core::record::{Bad, Location};
use capstan_core::view::{ApplicationView, PackageView};
use capstan_core::{ApplicationId, PackageId};
use capstan_store::{NewPackage, Registered};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::extract::sentence;
use crate::problem::Problem;

/// A package that lies somewhere else already.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegisterRequest {
    /// Id or name of the application.
    pub(crate) application: String,
    /// The version, 1 to 64 letters, digits and `._+-`, not beginning with a dot.
    pub(crate) version: String,
    /// URL of the archive: `http`, `https` or `file`.
    #[serde(default)]
    pub(crate) location: Option<String>,
    /// SHA-256 of the archive, 64 lower-case hexadecimal digits.
    pub(crate) sha256: String,
}

/// Marks a package, or takes the mark away.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MarkRequest {
    /// Refused in new deployments and passed over by rollbacks.
    pub(crate) bad: bool,
    /// Why; needed with `bad`.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// What came of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The version is new.
    Created,
    /// The version was there with the same content.
    Same,
}

/// Whether a text can name a version: it becomes the name of a folder on every host.
pub(crate) fn check_version(version: &str) -> Result<(), Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    if (1..=64).contains(&version.len()) && !version.starts_with('.') && version.bytes().all(good) {
        return Ok(());
    }
    let allowed = "1 to 64 letters, digits and . _ + -, not beginning with a dot";
    Err(Problem::invalid("version", version, allowed))
}

/// Whether a text is a digest as Capstan writes it.
pub(crate) fn check_sha256(field: &str, digest: &str) -> Result<(), Problem> {
    let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digest.len() == 64 && digest.bytes().all(good) {
        return Ok(());
    }
    Err(Problem::invalid(field, digest, "64 lower-case hexadecimal digits"))
}

fn check_location(url: &str) -> Result<(), Problem> {
    let allowed = "a URL that begins with http://, https:// or file:// and names a host and a path \
                   (file: an absolute path), without spaces, user or password";
    let refuse = || Problem::invalid("location", url, allowed);
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'`\\<>^{|}".contains(&byte));
    let (scheme, rest) = url.split_once("://").ok_or_else(refuse)?;
    let (host, path) = rest.split_once('/').ok_or_else(refuse)?;
    let good = match scheme {
        "http" | "https" => is_host(host) && !path.is_empty(),
        "file" => (host.is_empty() || host == "localhost") && !path.is_empty(),
        _ => false,
    };
    if plain && good && url.len() <= 2048 { Ok(()) } else { Err(refuse()) }
}

/// A host with or without a port; IPv6 addresses stand in brackets.
fn is_host(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            ("ipv6", rest.strip_prefix(':').or(rest.is_empty().then_some("0")))
        }
        Some(_) => return false,
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("0")),
        },
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !host.is_empty()
        && host.bytes().all(good)
        && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

/// The version is there with another content.
pub(crate) fn version_exists(package: &PackageView) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "version_exists",
        format!(
            "version {} exists with another content (sha256 {}); a version never changes: take a \
             new one",
            package.version, package.sha256
        ),
    )
    .with_json("package", package)
}

impl App {
    /// The application that a request names, by id or by name; 404 when there is none.
    pub(crate) async fn named_application(&self, named: &str) -> Result<ApplicationView, Problem> {
        let by_id = match named.parse::<ApplicationId>() {
            Ok(id) => self.store.application(id).await?,
            Err(_) => None,
        };
        let application = match by_id {
            Some(application) => Some(application),
            None => self.store.application_by_name(named).await?,
        };
        application.ok_or_else(|| Problem::unknown("application", "application_unknown", named))
    }

    /// The package that the path names by application and version; 404 when there is none.
    pub(crate) async fn package(
        &self,
        application: &str,
        version: &str,
    ) -> Result<PackageView, Problem> {
        let application = self.named_application(application).await?;
        let package = self.store.package_by_version(application.id, version).await?;
        let named = format!("{version} of {}", application.name);
        package.ok_or_else(|| Problem::unknown("package", "package_unknown", named))
    }

    /// Registers a package that lies somewhere else.
    pub(crate) async fn register(
        self: &Arc<Self>,
        caller: &Caller,
        request: RegisterRequest,
    ) -> Result<(PackageView, Outcome), Problem> {
        let subject = format!("{}/{}", request.application, request.version);
        let detail = format!("sha256 {}", request.sha256);
        let deed = deed(caller, "package.register", subject, detail);
        let result = self.register_now(&deed, request).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn register_now(
        self: &Arc<Self>,
        deed: &Deed<'_>,
        request: RegisterRequest,
    ) -> Result<(PackageView, Outcome), Problem> {
        check_version(&request.version)?;
        check_sha256("sha256", &request.sha256)?;
        let allowed = "a URL with http, https or file; to upload the archive itself, use PUT \
                       /api/v1/packages/{application}/{version}";
        let url = request.location.ok_or_else(|| Problem::missing("location", allowed))?;
        check_location(&url)?;
        let application = self.named_application(&request.application).await.map_err(in_body)?;
        let package = NewPackage {
            application: application.id,
            version: request.version,
            sha256: request.sha256,
            size: None,
            locations: vec![Location { idc: String::new(), url }],
            stored: false,
        };
        self.put_package(deed, package).await
    }

    /// Writes a package; the groups of its application may turn out to run it.
    pub(crate) async fn put_package(
        self: &Arc<Self>,
        deed: &Deed<'_>,
        package: NewPackage,
    ) -> Result<(PackageView, Outcome), Problem> {
        let (view, registered) =
            self.store.package_register(package, Some(deed.accepted())).await?;
        let outcome = match registered {
            Registered::Created => Outcome::Created,
            Registered::Same => Outcome::Same,
            Registered::OtherDigest => return Err(version_exists(&view)),
        };
        let (app, application) = (self.clone(), view.application);
        tokio::spawn(async move { app.adopt_groups_of(application).await });
        Ok((view, outcome))
    }

    /// Marks a package as bad, or takes the mark away.
    pub(crate) async fn mark(
        &self,
        caller: &Caller,
        application: &str,
        version: &str,
        request: MarkRequest,
    ) -> Result<PackageView, Problem> {
        let action = if request.bad { "package.mark_bad" } else { "package.clear_bad" };
        let detail = request.reason.clone().unwrap_or_default();
        let deed = deed(caller, action, format!("{application}/{version}"), detail);
        let result = self.mark_now(&deed, application, version, request).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn mark_now(
        &self,
        deed: &Deed<'_>,
        application: &str,
        version: &str,
        request: MarkRequest,
    ) -> Result<PackageView, Problem> {
        let bad = match (request.bad, request.reason) {
            (true, reason) => {
                Some(Bad { by: deed.actor.to_owned(), reason: sentence("reason", reason)? })
            }
            (false, None) => None,
            (false, Some(reason)) => {
                return Err(Problem::invalid("reason", reason, "only together with bad = true"));
            }
        };
        let id: PackageId = self.package(application, version).await?.id;
        let marked = self.store.package_mark(id, bad, Some(deed.accepted())).await?;
        marked.ok_or_else(|| Problem::unknown("package", "package_unknown", id))
    }
}

/// What is not there is named in the body, not in the path.
fn in_body(mut problem: Problem) -> Problem {
    if problem.status == StatusCode::NOT_FOUND {
        problem.status = StatusCode::UNPROCESSABLE_ENTITY;
        return problem
            .with("field", "application")
            .with("allowed", "the id or the name of an application");
    }
    problem
}

/// A deed on a package.
pub(crate) fn deed<'a>(
    caller: &'a Caller,
    action: &'a str,
    subject: String,
    detail: String,
) -> Deed<'a> {
    Deed { actor: &caller.name, action, kind: "package", subject, deployment: None, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_could_leave_their_folder_are_refused() {
        for good in ["1.1.0", "v2", "2024-05-01_a+b", "x"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locations_name_a_scheme_a_host_and_a_path() {
        for good in [
            "http://pkg.example:8080/web/1.tar.gz",
            "https://pkg.example/web.tar.gz?x=1",
            "http://[::1]:80/a",
            "file:///srv/packages/web.tar.gz",
        ] {
            assert!(check_location(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "web.tar.gz",
            "ftp://pkg.example/a",
            "http:///a",
            "http://pkg.example",
            "http://user:secret@pkg.example/a",
            "http://pkg.example:port/a",
            "http://pkg.example/a b",
            "http://pkg.example/a\"b",
            "file://other/a",
            "javascript:alert(1)",
        ] {
            assert!(check_location(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_are_lower_case_hexadecimal() {
        assert!(check_sha256("sha256", &"0a".repeat(32)).is_ok());
        for bad in ["", "0a", &"0A".repeat(32), &"0g".repeat(32)] {
            assert!(check_sha256("sha256", bad).is_err(), "{bad}");
        }
    }
}
