//! Brings the demo's packages in through the REST API, as a build would.

use std::time::Duration;

use anyhow::{Context, bail};
use capstan_core::view::{ApplicationView, GroupView, Page};

use super::packages::Package;

/// How long the first look at the fleet may take.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(100);

/// Uploads the packages, waits until the fleet's version is known, and gives it.
pub(crate) async fn bring_in(
    url: &str,
    token: &str,
    packages: &[Package],
) -> anyhow::Result<String> {
    let client = reqwest::Client::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let get = |path: &str| client.get(format!("{url}/api/v1/{path}")).bearer_auth(token);
    loop {
        let answer = get("applications?search=web").send().await?.error_for_status()?;
        let page: Page<ApplicationView> = answer.json().await?;
        if page.items.iter().any(|application| application.name == "web") {
            break;
        }
        pause(deadline, "the inventory was not read").await?;
    }
    for package in packages {
        upload(&client, url, token, package).await?;
    }
    loop {
        let answer = get("groups?limit=1").send().await?.error_for_status()?;
        let page: Page<GroupView> = answer.json().await?;
        if let Some(version) = page.items.into_iter().find_map(|group| group.version) {
            return Ok(version);
        }
        pause(deadline, "the instances did not say what they run").await?;
    }
}

async fn upload(
    client: &reqwest::Client,
    url: &str,
    token: &str,
    package: &Package,
) -> anyhow::Result<()> {
    let bytes = tokio::fs::read(&package.path)
        .await
        .with_context(|| format!("reading {}", package.path.display()))?;
    let answer = client
        .put(format!("{url}/api/v1/packages/web/{}", package.version))
        .bearer_auth(token)
        .header("x-capstan-sha256", &package.sha256)
        .body(bytes)
        .send()
        .await?;
    let status = answer.status();
    if !status.is_success() {
        bail!("uploading {}: {status} {}", package.version, answer.text().await?);
    }
    Ok(())
}

async fn pause(deadline: tokio::time::Instant, what: &str) -> anyhow::Result<()> {
    if tokio::time::Instant::now() > deadline {
        bail!("{what} within {} seconds", PATIENCE.as_secs());
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}
