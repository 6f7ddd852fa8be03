//! How fast the API and the page answer while a rollout stands halfway.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use capstan_core::action::Action;
use capstan_drivers::cmdb_records::Names;
use capstan_drivers::file_cmdb::FileCmdb;
use capstan_drivers::packages::FilePackageStore;
use capstan_drivers::scripts::Scripts;
use capstan_drivers::webhooks::{Allowed, HttpWebhooks};
use capstan_store::Store;

use crate::create::create;
use crate::fleet::{act, engine, fleet, wait_for_calls};
use crate::recorder::Recorder;

/// `GET /deployments/{id}` and the deployment's page, over loopback, with the rollout braked halfway.
pub(crate) async fn answers(size: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let recorder = Arc::new(Recorder::default());
    let (store, group) = fleet(folder.path(), size).await?;
    let deployment = create(&store, group, 1, false).await?;
    let engine = engine(&store, &recorder);
    act(&store, group, deployment, Action::Start).await?;
    wait_for_calls(&recorder, size as usize).await?;
    act(&store, group, deployment, Action::Brake).await?;
    let (url, token, link) = serve(&store, folder.path()).await?;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let signed_in = client.get(format!("{url}{link}")).send().await?;
    let cookies: Vec<&str> = signed_in
        .headers()
        .get_all("set-cookie")
        .iter()
        .filter_map(|cookie| cookie.to_str().ok()?.split(';').next())
        .collect();
    let cookies = cookies.join("; ");
    for path in [format!("api/v1/deployments/{deployment}"), format!("deployments/{deployment}")] {
        let mut took = Vec::new();
        for _ in 0..200 {
            let request = client.get(format!("{url}/{path}"));
            let request = if path.starts_with("api") {
                request.bearer_auth(&token)
            } else {
                request.header("cookie", &cookies)
            };
            let started = Instant::now();
            let body = request.send().await?.error_for_status()?.bytes().await?;
            took.push(started.elapsed());
            anyhow::ensure!(
                body.windows(11).any(|text| text == b"ROLLOUT_BRA"),
                "{path}: another page"
            );
        }
        took.sort_unstable();
        println!(
            "GET /{}, {size} targets: p50 {:.1} ms, p99 {:.1} ms",
            path.replace(&deployment.to_string(), "{id}"),
            took[100].as_secs_f64() * 1e3,
            took[198].as_secs_f64() * 1e3
        );
    }
    engine.stop().await;
    Ok(())
}

/// A controller on a free port; gives its URL, the administrator's token and a link that signs in.
async fn serve(store: &Store, folder: &Path) -> anyhow::Result<(String, String, String)> {
    let names = Names { load_balancers: Vec::new(), executors: Vec::new() };
    let ports = capstan_controller::Ports {
        cmdb: Arc::new(FileCmdb::open(folder.join("inventory.yaml"), names).await),
        packages: Arc::new(FilePackageStore::open(folder.join("packages"), 1024)?),
        load_balancers: BTreeMap::new(),
        executors: BTreeMap::new(),
        scripts: Arc::new(Scripts::new(None)),
        broker: None,
        inbox: None,
        webhooks: Arc::new(HttpWebhooks::new(
            std::time::Duration::from_secs(1),
            Allowed::default(),
        )?),
    };
    let settings = capstan_controller::Settings::default();
    let controller = capstan_controller::Controller::new(store.clone(), ports, settings);
    let token = controller.ensure_admin_token(|_| Ok(())).await?.context("a new token")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let service = controller.router().into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    let link = controller.login_link(&token).await?;
    Ok((url, token, link))
}
